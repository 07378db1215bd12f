// The page of nndet_review: what keys and buttons do. Everything that a reader decides is sent at once.

import { Decisions, describeCase, growLesion, imageAddress, listCases } from "./api.js";
import { CandidateList, make, titled } from "./candidates.js";
import { Views } from "./viewer.js";

const element = (id) => document.getElementById(id);
let cases = [];
let number = -1; // of the scan shown
let shown = null; // what the server says of it
let decisions = null;
let current = ""; // name of the lesion that is judged
let adding = false; // a lesion follows the cursor until it is confirmed
const saving = new Map(); // lesion -> verdict on its way
const grown = new Map(); // added lesion -> how it is drawn
const views = new Views(element("views"), cursorMoved);
const list = new CandidateList(element("candidates"), select);

function lesions() {
  const judged = decisions?.state.lesions ?? {};
  const added = Object.entries(judged).filter(([, own]) => own.point);
  const all = [
    ...(shown?.candidates ?? []).map((own) => ({ ...own, ...judged[own.lesion] })),
    ...added.map(([lesion, own]) => ({ lesion, diameter_mm: 3, ...grown.get(lesion), ...own })),
  ];
  return all.map((own) => (saving.has(own.lesion) ? { ...own, verdict: saving.get(own.lesion), saving: true } : own));
}

const middle = ({ point, box }) => point ?? [0, 1, 2].map((i) => (box[i] + box[i + 3]) / 2);
const lesion = () => lesions().find((own) => own.lesion === current);

function status(text, bad = false) {
  element("status").textContent = text;
  element("status").classList.toggle("bad", bad);
}

// What is on the screen ----------------------------------------------------------------------------------------------

function show() {
  const all = lesions(), own = lesion(), { volume } = views;
  list.update(all, current);
  views.set({
    current,
    lesions: volume ? all.map((each) => ({ ...each, fraction: volume.fraction(middle(each)) })) : [],
  });
  const judged = all.filter((each) => each.verdict).length, reported = all.filter((each) => each.reported);
  const open = reported.filter((each) => !each.verdict).length;
  element("progress").textContent = shown ? `${judged} judged, ${open} of ${reported.length} reported ones open` : "";
  element("lesion-title").textContent = own ? titled(own).name : "No candidate";
  element("lesion-text").textContent = own ? about(own) : "";
  for (const button of element("verdicts").children) {
    button.disabled = !own;
    button.setAttribute("aria-pressed", own?.verdict === button.dataset.verdict);
  }
  element("location").value = own?.location ?? "unknown";
  element("class").value = own?.class ?? 0;
  element("location").disabled = element("class").disabled = !own;
  element("remove").hidden = !own?.point;
  element("undo").disabled = !decisions?.state.can_undo;
  element("done").checked = decisions?.state.done ?? false;
  element("add").setAttribute("aria-pressed", Boolean(adding));
  if (cases[number]) {
    cases[number].done = decisions?.state.done ?? cases[number].done;
    element("cases").options[number].textContent = caseText(cases[number]);
  }
}

function about(own) {
  const parts = own.point
    ? [own.how ? `${own.how === "grown" ? "grown" : "a ball: nothing stands out"}, ${own.diameter_mm.toFixed(1)} mm` : "growing"]
    : [`score ${own.score.toFixed(3)}`, `${own.diameter_mm.toFixed(1)} mm`, own.reported ? "reported" : "weaker than what is reported",
      `R A S ${own.ras_mm.map((mm) => mm.toFixed(0)).join(" ")} mm`];
  return parts.join(", ");
}

const caseText = (own) => `${own.done ? "✓ " : ""}${own.case} (${own.problem ? "cannot be read" : own.reported})`;

function select(name) {
  current = name;
  const own = lesion();
  if (own && views.volume) views.look(views.volume.fraction(middle(own)));
  show();
  list.reveal(name);
}

function step(by) {
  const all = lesions(), at = all.findIndex((own) => own.lesion === current);
  const to = all[Math.min(Math.max(at + by, 0), all.length - 1)];
  if (to) select(to.lesion);
}

function cursorMoved() {
  if (adding) preview();
}

// Decisions ----------------------------------------------------------------------------------------------------------

function stateChanged(state, message, saved) {
  if (this !== decisions) return; // an answer about a scan that is no longer shown
  document.body.dataset.revision = state.revision;
  status(message, !saved);
  if (!saved) saving.clear();
  for (const [name, verdict] of saving) if (state.lesions[name]?.verdict === verdict) saving.delete(name);
  for (const name of grown.keys()) if (!state.lesions[name]) grown.delete(name);
  for (const [name, own] of Object.entries(state.lesions)) if (own.point && !grown.has(name)) growAdded(name, own.point);
  if (current && !lesion()) current = lesions()[0]?.lesion ?? "";
  show();
}

function judge(verdict) {
  const own = lesion();
  if (!own || !decisions) return;
  saving.set(own.lesion, verdict);
  decisions.send({ kind: "judge", lesion: own.lesion, verdict });
  step(1);
}

function choose(key, value) {
  if (lesion()) decisions.send({ kind: "judge", lesion: current, [key]: value });
}

async function undo() {
  const own = decisions;
  if (!own) return;
  const { before, after } = await own.send({ kind: "undo" });
  if (own !== decisions) return;
  const names = new Set([...Object.keys(before), ...Object.keys(after)]);
  const changed = [...names].find((name) => JSON.stringify(before[name]) !== JSON.stringify(after[name]));
  if (lesions().some((each) => each.lesion === changed)) select(changed);
  else show();
}

function remove() {
  if (lesion()?.point) decisions.send({ kind: "remove", lesion: current });
}

async function growAdded(name, point) {
  grown.set(name, {});
  const of = number;
  const answer = await growLesion(of, point).catch(() => null);
  if (!answer || of !== number || !grown.has(name)) return;
  grown.set(name, answer);
  show();
}

// Adding a lesion: it is shown as it will grow, follows the cursor, and is added when that is confirmed ---------------

async function preview() {
  const { volume } = views;
  if (!volume) return;
  const point = volume.point(views.shared.cursor), of = number;
  adding = { point };
  element("preview").hidden = false;
  element("preview-text").textContent = "Growing";
  try {
    const answer = await growLesion(of, point);
    if (adding.point !== point || of !== number) return; // the cursor has gone on
    views.set({ preview: answer });
    const how = answer.how === "grown" ? "Grows to" : "Nothing stands out here: a ball of";
    element("preview-text").textContent =
      `${how} ${answer.diameter_mm.toFixed(1)} mm, ${answer.voxels.length} voxels. Click elsewhere to move it.`;
  } catch (error) {
    element("preview-text").textContent = error.message;
  }
}

function startAdding() {
  if (adding) confirmAdding();
  else if (views.volume) {
    preview();
    show();
  }
}

async function confirmAdding() {
  if (!adding) return;
  const { point } = adding, own = decisions;
  stopAdding();
  await own.send({ kind: "add", point });
  if (own !== decisions) return;
  const added = Object.keys(own.state.lesions).filter((name) => own.state.lesions[name].point);
  if (added.length) select(added.at(-1));
}

function stopAdding() {
  adding = false;
  element("preview").hidden = true;
  views.set({ preview: null });
  show();
}

// Scans --------------------------------------------------------------------------------------------------------------

async function open(place) {
  if (place < 0 || place >= cases.length || place === number) return;
  number = place;
  performance.mark("open");
  stopAdding();
  saving.clear();
  grown.clear();
  list.clear();
  views.clear();
  shown = decisions = null;
  current = "";
  element("cases").value = place;
  document.body.dataset.ready = "";
  status("Opening");
  try {
    const described = await describeCase(place);
    if (number !== place) return;
    shown = described;
    decisions = new Decisions(place, described.state, stateChanged);
    decisions.changed = stateChanged.bind(decisions);
    document.body.dataset.revision = described.state.revision;
    element("class").replaceChildren(...described.classes.map((text, value) => make("option", { textContent: text, value })));
    element("class-label").hidden = described.classes.length < 2;
    current = described.candidates[0]?.lesion ?? "";
    show();
    const loading = described.images.map((image) =>
      niivue.NVImage.loadFromUrl({ url: imageAddress(place, image), name: image.file }));
    await views.prepare(described.images.length);
    const images = await Promise.all(loading);
    if (number !== place) return;
    views.show(images, described.images);
    list.drawCrops(views.volumes, (name) => views.volume.fraction(middle(lesions().find((own) => own.lesion === name))));
    for (const [name, own] of Object.entries(decisions.state.lesions)) if (own.point) growAdded(name, own.point);
    if (current) select(current);
    else views.look([0.5, 0.5, 0.5]);
    status(`Opened ${described.case}`);
  } catch (error) {
    if (number === place) status(`Cannot be opened: ${error.message}`, true);
  }
  requestAnimationFrame(() => setTimeout(() => {
    performance.measure("opened", "open");
    document.body.dataset.ready = String(place);
  }));
}

// Keys and buttons ---------------------------------------------------------------------------------------------------

const toggle = (id) => element(id).click();
const cycle = (select) => {
  select.selectedIndex = (select.selectedIndex + 1) % select.options.length;
  select.dispatchEvent(new Event("change"));
};

const KEYS = [
  [["n", "j"], "next candidate", () => step(1)],
  [["p", "k"], "previous candidate", () => step(-1)],
  [["a"], "accept, then the next", () => judge("accept")],
  [["r"], "reject, then the next", () => judge("reject")],
  [["u"], "unsure, then the next", () => judge("unsure")],
  [["o"], "possible (MARS), then the next", () => judge("possible")],
  [["1"], "location: lobar", () => choose("location", "lobar")],
  [["2"], "location: deep", () => choose("location", "deep")],
  [["3"], "location: infratentorial", () => choose("location", "infratentorial")],
  [["0"], "location: unknown", () => choose("location", "unknown")],
  [["c"], "next class", () => shown?.classes.length > 1 && !element("class").disabled && cycle(element("class"))],
  [["+", "="], "add a lesion at the cursor; again, or Enter: yes", startAdding],
  [["Enter"], "add the lesion that is shown", confirmAdding],
  [["Escape"], "do not add it", () => adding && stopAdding()],
  [["Delete"], "remove an added lesion", remove],
  [["Backspace"], "undo", undo],
  [["w"], "I looked at the whole scan", () => toggle("done")],
  [["]"], "next scan", () => open(number + 1)],
  [["["], "previous scan", () => open(number - 1)],
  [["ArrowLeft"], "cursor to the left of the picture", () => views.step([1, 0, 0])],
  [["ArrowRight"], "cursor to the right of the picture", () => views.step([-1, 0, 0])],
  [["ArrowUp"], "cursor to the front", () => views.step([0, 1, 0])],
  [["ArrowDown"], "cursor to the back", () => views.step([0, -1, 0])],
  [["PageUp"], "one slice up", () => views.step([0, 0, 1])],
  [["PageDown"], "one slice down", () => views.step([0, 0, -1])],
  [["v"], "next choice of planes", () => cycle(element("layout"))],
  [["m"], "projection in a single plane", () => toggle("project")],
  [["z"], "zoom in a single plane", () => toggle("zoom")],
  [["h"], "hide or show the marks", () => toggle("marks")],
  [["?"], "these keys", () => element("keys").showModal()],
];
const ACTIONS = new Map(KEYS.flatMap(([keys, , act]) => keys.map((key) => [key, act])));

/** Whether a control does something with a key itself. */
function takes({ tagName, type }, key) {
  if (tagName === "SELECT") return true;
  if (type === "range") return /^(Arrow.*|Page.*|Home|End)$/.test(key);
  return (tagName === "BUTTON" && /^( |Enter)$/.test(key)) || (type === "checkbox" && key === " ");
}

document.addEventListener("keydown", (event) => {
  const { key, target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || element("keys").open) return;
  if (key === "Escape" && !adding && target.matches("select, input, button")) element("candidates").focus();
  if (takes(target, key)) return;
  if (target.id === "candidates" && (key === "ArrowDown" || key === "ArrowUp")) {
    event.preventDefault();
    step(key === "ArrowDown" ? 1 : -1);
    return;
  }
  const act = ACTIONS.get(key);
  if (!act || !shown) return;
  event.preventDefault();
  act();
});

element("keys-list").append(...KEYS.flatMap(([keys, text]) => [
  make("dt", {}, ...keys.map((key) => make("kbd", { textContent: key }))), make("dd", { textContent: text })]));
const on = (id, kind, act) => element(id).addEventListener(kind, act);
for (const button of element("verdicts").children) button.addEventListener("click", () => judge(button.dataset.verdict));
on("location", "change", (event) => choose("location", event.target.value));
on("class", "change", (event) => choose("class", Number(event.target.value)));
on("remove", "click", remove);
on("add", "click", () => (adding ? stopAdding() : startAdding()));
on("confirm", "click", confirmAdding);
on("cancel", "click", stopAdding);
on("undo", "click", undo);
on("done", "change", (event) => decisions?.send({ kind: "done", done: event.target.checked }));
on("help", "click", () => element("keys").showModal());
on("cases", "change", (event) => open(Number(event.target.value)));
on("next-case", "click", () => open(number + 1));
on("previous-case", "click", () => open(number - 1));
on("layout", "change", (event) => views.set({ layout: event.target.value }));
on("project", "change", (event) => views.set({ project: event.target.checked }));
on("zoom", "change", (event) => views.set({ zoom: event.target.checked }));
on("marks", "change", (event) => views.set({ marks: event.target.checked }));
on("slab", "input", (event) => {
  element("slab-mm").textContent = `${event.target.value} mm`;
  views.set({ slab: Number(event.target.value) });
});
for (const id of ["low", "high"]) on(id, "input", () => views.window(Number(element("low").value), Number(element("high").value)));
document.addEventListener("visibilitychange", () => document.hidden || decisions?.refresh().catch(() => {}));
window.addEventListener("focus", () => decisions?.refresh().catch(() => {}));

const listing = await listCases();
cases = listing.cases;
document.title = `${listing.title}: review by ${listing.reader}`;
element("title").textContent = `${listing.title}, read by ${listing.reader}`;
element("cases").replaceChildren(...cases.map((own, i) => make("option", { value: i, textContent: caseText(own) })));
await open(Math.max(0, cases.findIndex((own) => !own.done)));

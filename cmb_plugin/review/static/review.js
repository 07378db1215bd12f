// The page of nndet_review: shows scans in NiiVue, candidates by rank, and sends every decision at once.

const VERDICTS = ["accept", "reject", "unsure", "possible"];
const LOCATIONS = ["unknown", "lobar", "deep", "infratentorial"];
const element = (id) => document.getElementById(id);
let number = 0; // of the case shown
let shown = null; // what the server says of it
let viewers = [];
let current = 0; // place in lesions()
let sending = Promise.resolve(); // decisions go one after another

function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children); // text stays text, whatever it holds
  return made;
}

async function fetched(path, options) {
  const response = await fetch(path, options);
  const content = await response.json();
  if (!response.ok && response.status !== 409) throw new Error(content.error);
  return { status: response.status, content };
}

function lesions() {
  const judged = shown.state.lesions;
  const added = Object.entries(judged).filter(([, own]) => own.point);
  return [
    ...shown.candidates.map((own) => ({ ...own, ...(judged[own.lesion] ?? {}) })),
    ...added.map(([lesion, own]) => ({ lesion, ...own, ras_mm: toRas(own.point) })),
  ];
}

function toRas([z, y, x]) {
  // Inverse of ras_to_voxel by Cramer's rule: added points are few.
  const m = shown.ras_to_voxel, b = [z, y, x].map((value, i) => value - m[i][3]);
  const det = (a) => a[0][0] * (a[1][1] * a[2][2] - a[1][2] * a[2][1]) - a[0][1] * (a[1][0] * a[2][2] - a[1][2] * a[2][0])
    + a[0][2] * (a[1][0] * a[2][1] - a[1][1] * a[2][0]);
  const square = m.map((row) => row.slice(0, 3)), whole = det(square);
  return [0, 1, 2].map((k) => det(square.map((row, i) => row.map((value, j) => (j === k ? b[i] : value)))) / whole);
}

async function send(event) {
  sending = sending.then(async () => {
    try {
      const { status, content } = await fetched(`api/cases/${number}/events`, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ revision: shown.state.revision, event }),
      });
      shown.state = content.state;
      element("status").textContent = status === 409 ? "Decided in another tab meanwhile: look again" : "Saved";
    } catch (error) {
      element("status").textContent = `Not saved: ${error.message}`;
    }
    show();
  });
  return sending;
}

function select(place) {
  current = Math.max(0, Math.min(place, lesions().length - 1));
  const lesion = lesions()[current];
  if (lesion) {
    for (const viewer of viewers) {
      viewer.scene.crosshairPos = viewer.mm2frac(lesion.ras_mm);
      viewer.drawScene();
    }
  }
  show();
  element("candidates").children[current]?.scrollIntoView({ block: "nearest" });
}

function show() {
  const rows = lesions().map((lesion, place) => {
    const name = lesion.point ? `${lesion.lesion}, added` : `${lesion.lesion}: score ${lesion.score}, ${lesion.diameter_mm} mm`;
    const buttons = VERDICTS.map((verdict) => {
      const button = make("button", { type: "button", textContent: verdict });
      button.setAttribute("aria-pressed", lesion.verdict === verdict);
      button.addEventListener("click", () => send({ kind: "judge", lesion: lesion.lesion, verdict }));
      return button;
    });
    const choose = (key, label, options, value) => {
      const choice = make("select", { ariaLabel: `${label} of lesion ${lesion.lesion}` },
        ...options.map(([text, own]) => make("option", { textContent: text, value: own, selected: String(own) === String(value) })));
      choice.addEventListener("change", () =>
        send({ kind: "judge", lesion: lesion.lesion, [key]: key === "class" ? Number(choice.value) : choice.value }));
      return choice;
    };
    const row = make("li", {}, make("div", { textContent: name }), ...buttons,
      choose("location", "Location", LOCATIONS.map((text) => [text, text]), lesion.location ?? "unknown"));
    if (shown.classes.length > 1) row.append(choose("class", "Class", shown.classes.map((text, i) => [text, i]), lesion.class ?? 0));
    if (lesion.point) {
      const remove = make("button", { type: "button", textContent: "remove" });
      remove.addEventListener("click", () => send({ kind: "remove", lesion: lesion.lesion }));
      row.append(remove);
    }
    if (place === current) row.setAttribute("aria-current", "true");
    row.addEventListener("click", (event) => { if (event.target === row || event.target.tagName === "DIV") select(place); });
    return row;
  });
  element("candidates").replaceChildren(...rows);
  element("done").checked = shown.state.done;
}

async function open(place) {
  number = place;
  current = 0;
  shown = (await fetched(`api/cases/${place}`)).content;
  viewers = [];
  const figures = [];
  for (const image of shown.images) {
    const canvas = make("canvas", { tabIndex: 0 });
    canvas.setAttribute("aria-label", `${image.name} in three planes`);
    figures.push(make("figure", {}, make("figcaption", { textContent: image.name }), canvas));
  }
  element("views").replaceChildren(...figures);
  for (const [place, image] of shown.images.entries()) {
    const viewer = new niivue.Niivue({ isResizeCanvas: true, show3Dcrosshair: true });
    await viewer.attachToCanvas(figures[place].querySelector("canvas"));
    await viewer.loadVolumes([{ url: new URL(`api/cases/${number}/images/${image.number}/${image.file}`, location.href).href }]);
    viewers.push(viewer);
  }
  for (const viewer of viewers) viewer.broadcastTo(viewers.filter((other) => other !== viewer), { "2d": true });
  select(0);
}

function addAtCursor() {
  if (!viewers.length) return;
  const [x, y, z] = viewers[0].frac2mm(viewers[0].scene.crosshairPos);
  const point = shown.ras_to_voxel.map((row) => row[0] * x + row[1] * y + row[2] * z + row[3]);
  send({ kind: "add", point });
}

const KEYS = {
  n: () => select(current + 1),
  p: () => select(current - 1),
  a: () => judge("accept"),
  r: () => judge("reject"),
  u: () => judge("unsure"),
  o: () => judge("possible"),
  "+": addAtCursor,
  Backspace: () => send({ kind: "undo" }),
};

async function judge(verdict) {
  const lesion = lesions()[current];
  if (!lesion) return;
  await send({ kind: "judge", lesion: lesion.lesion, verdict });
  select(current + 1);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || ["SELECT", "INPUT"].includes(event.target.tagName)) return;
  const act = KEYS[event.key];
  if (act && shown) {
    event.preventDefault();
    act();
  }
});
element("done").addEventListener("change", (event) => send({ kind: "done", done: event.target.checked }));
element("level").addEventListener("input", (event) => {
  for (const viewer of viewers) {
    const volume = viewer.volumes[0];
    volume.cal_max = volume.robust_min + (volume.robust_max - volume.robust_min) * Math.max(0.02, Number(event.target.value));
    viewer.updateGLVolume();
  }
});
element("cases").addEventListener("change", (event) => open(Number(event.target.value)));

const { content } = await fetched("api/cases");
document.title = content.title;
element("title").textContent = `${content.title}, ${content.reader}`;
element("cases").replaceChildren(...content.cases.map((own, i) =>
  make("option", { value: i, textContent: `${own.done ? "✓ " : ""}${own.case} (${own.reported})` })));
if (content.cases.length) await open(0);

// The list of candidates by rank: a row each, with a crop of every modality, drawn when it comes into sight.

const MARKS = { accept: "✓", reject: "✕", unsure: "?", possible: "○" };
const CROP_MM = 24;
const CROP_PIXELS = 64;

/** An element with properties and children; text stays text, whatever it holds. */
export function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** What a lesion is called, and what is known of it. */
export function titled(lesion) {
  const name = lesion.point ? `Added ${lesion.lesion.slice(1)}` : `Candidate ${lesion.lesion}`;
  const facts = lesion.point ? [] : [lesion.score.toFixed(2), `${lesion.diameter_mm.toFixed(1)} mm`];
  if (lesion.location && lesion.location !== "unknown") facts.push(lesion.location);
  return { name, facts: facts.join(", ") };
}

export class CandidateList {
  /**
   * @param {HTMLElement} place a listbox
   * @param {function} choose called with the name of the lesion whose row is clicked
   */
  constructor(place, choose) {
    this.place = place;
    this.rows = new Map();
    this.shown = new IntersectionObserver((entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting || !this.crop) continue;
        this.shown.unobserve(target);
        this.crop(target);
      }
    }, { root: place, rootMargin: "200px" });
    place.addEventListener("click", (event) => {
      const row = event.target.closest("[role=option]");
      if (row) choose(row.dataset.lesion);
    });
  }

  /** Begins anew, for another scan. */
  clear() {
    this.shown.disconnect();
    this.crop = null;
    this.rows.clear();
    this.place.replaceChildren();
  }

  /** Brings the rows in line with the lesions: only those that changed are touched. */
  update(lesions, current) {
    const names = new Set(lesions.map((lesion) => lesion.lesion));
    for (const [name, row] of this.rows) {
      if (names.has(name)) continue;
      row.remove();
      this.rows.delete(name);
    }
    for (const lesion of lesions) {
      const row = this.rows.get(lesion.lesion) ?? this.#row(lesion);
      const key = `${lesion.verdict} ${lesion.location} ${lesion.class} ${lesion.saving}`;
      if (row.dataset.key !== key) this.#fill(row, lesion, key);
      row.setAttribute("aria-selected", lesion.lesion === current);
    }
    const chosen = this.rows.get(current);
    if (chosen) this.place.setAttribute("aria-activedescendant", chosen.id);
    else this.place.removeAttribute("aria-activedescendant");
  }

  reveal(name) {
    this.rows.get(name)?.scrollIntoView({ block: "nearest" });
  }

  /** Draws the crops of rows as they come into sight. */
  drawCrops(volumes, placeOf) {
    this.crop = (row) => {
      const context = row.querySelector("canvas").getContext("2d");
      volumes.forEach((volume, i) => drawCrop(context, volume, placeOf(row.dataset.lesion), i * CROP_PIXELS));
    };
    for (const row of this.rows.values()) {
      row.querySelector("canvas").width = CROP_PIXELS * Math.max(1, volumes.length);
      this.shown.unobserve(row);
      this.shown.observe(row);
    }
    this.volumes = volumes.length;
  }

  #row(lesion) {
    const canvas = make("canvas", { width: CROP_PIXELS * (this.volumes || 1), height: CROP_PIXELS });
    canvas.setAttribute("aria-hidden", "true");
    const row = make("div", { id: `row-${lesion.lesion}` }, canvas, make("div", { className: "text" }), make("span", { className: "mark" }));
    row.setAttribute("role", "option");
    row.dataset.lesion = lesion.lesion;
    this.rows.set(lesion.lesion, row);
    this.place.append(row);
    if (this.crop) this.shown.observe(row);
    return row;
  }

  #fill(row, lesion, key) {
    const { name, facts } = titled(lesion);
    row.querySelector(".text").replaceChildren(make("strong", { textContent: name }), make("span", { textContent: facts }));
    row.querySelector(".mark").textContent = lesion.verdict ? `${MARKS[lesion.verdict]} ${lesion.verdict}` : lesion.reported === false ? "weak" : "";
    Object.assign(row.dataset, { key, verdict: lesion.verdict ?? "", saving: lesion.saving ? "true" : "" });
  }
}

/** Draws the axial surroundings of a place; the left of the patient is on the right. */
function drawCrop(context, volume, fraction, left) {
  const voxel = volume.voxel(fraction);
  const window = [0, 1].map((axis) => {
    const half = Math.max(1, Math.round(CROP_MM / 2 / volume.spacing[axis]));
    return [voxel[axis] - half, voxel[axis] + half];
  });
  const projected = volume.project("axial", [voxel[2], voxel[2]], window);
  const picture = new OffscreenCanvas(projected.width, projected.height);
  picture.getContext("2d").putImageData(volume.paint(projected), 0, 0);
  context.save();
  context.translate(left + CROP_PIXELS, 0);
  context.scale(-1, 1);
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, CROP_PIXELS, CROP_PIXELS);
  context.restore();
}

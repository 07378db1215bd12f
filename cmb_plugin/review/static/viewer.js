// One modality of a scan: NiiVue draws the planes, a canvas above them the projection, the cursor and the marks.

import { putInStandIns } from "./stand_ins.js";
import { PLANES, Volume } from "./volume.js";

const NIIVUE_PLANES = ["axial", "coronal", "sagittal"]; // as NiiVue numbers them
const GRID = 2, PLANES_TOGETHER = 3, NEVER = 0; // NiiVue's layout, slice type, and when it renders in 3D
const ZOOM = 3;
const COLOURS = { accept: "#4ade80", reject: "#f87171", unsure: "#fbbf24", possible: "#67e8f9", none: "#ffffff" };
const CURSOR = "#38bdf8";
const GROWN = "#f0abfc";

export class Viewer {
  /**
   * @param {HTMLElement} place where its figure goes
   * @param {object} shared what all modalities show alike: cursor, lesions, current, preview, layout, project, slab, zoom, marks
   * @param {function} moved called with the place in the scan, 0..1 along three axes, that was pointed at
   */
  constructor(place, shared, moved) {
    this.shared = shared;
    this.moved = moved;
    this.volume = null;
    this.figure = document.createElement("figure");
    this.caption = document.createElement("figcaption");
    this.frame = document.createElement("div");
    this.canvas = document.createElement("canvas");
    this.overlay = document.createElement("canvas");
    this.frame.className = "frame";
    this.overlay.className = "overlay";
    this.overlay.tabIndex = 0;
    this.overlay.setAttribute("role", "img");
    this.frame.append(this.canvas, this.overlay);
    this.figure.append(this.caption, this.frame);
    place.append(this.figure);
    this.overlay.addEventListener("pointerdown", (event) => {
      this.overlay.focus({ preventScroll: true });
      this.overlay.setPointerCapture(event.pointerId);
      this.#point(event);
    });
    this.overlay.addEventListener("pointermove", (event) => event.buttons && this.#point(event));
    this.overlay.addEventListener("wheel", (event) => this.#scroll(event), { passive: false });
    new ResizeObserver(() => requestAnimationFrame(() => this.draw())).observe(this.frame);
  }

  async attach() {
    this.niivue = new niivue.Niivue({
      isResizeCanvas: true, interactive: false, dragAndDropEnabled: false, loadingText: "", logLevel: "error",
      isRadiologicalConvention: true, multiplanarLayout: GRID, multiplanarShowRender: NEVER, crosshairWidth: 0,
      fontColor: [1, 1, 1, 1], fontMinPx: 12, tileMargin: 2, backColor: [0, 0, 0, 1],
    });
    await this.niivue.attachToCanvas(this.canvas);
    putInStandIns(this.niivue);
  }

  /** Shows another image. */
  show(image, name, bright) {
    for (const old of [...this.niivue.volumes]) this.niivue.removeVolume(old);
    this.volume = new Volume(image, bright);
    this.niivue.addVolume(this.volume.grey());
    this.name = name;
    this.overlay.setAttribute("aria-label", `${name}: three planes and a projection. Arrow keys move the cursor.`);
  }

  clear() {
    this.volume = null;
    this.caption.textContent = "";
  }

  /** Grey levels between two shares of what NiiVue takes for the range of the scan. */
  window(low, high) {
    if (!this.volume) return;
    this.volume.window(low, Math.max(high, low + 0.02));
    this.niivue.updateGLVolume();
    this.#drawOverlay();
  }

  draw() {
    if (!this.volume) return;
    const { scene } = this.niivue, { layout, cursor, zoom } = this.shared;
    scene.crosshairPos = cursor;
    const scale = zoom && layout !== "planes" ? ZOOM : 1;
    const middle = this.niivue.frac2mm(cursor);
    scene.pan2Dxyzmm = [0, 1, 2].map((i) => (1 - scale) * middle[i]).concat(scale);
    this.niivue.opts.sliceType = layout === "planes" ? PLANES_TOGETHER : NIIVUE_PLANES.indexOf(layout);
    this.niivue.drawScene();
    this.#drawOverlay();
    const value = this.volume.value(this.volume.voxel(cursor)), [z, y, x] = this.volume.point(cursor).map(Math.floor);
    this.caption.textContent = `${this.name}: ${Math.round(value * 100) / 100} at ${x}, ${y}, ${z}`;
  }

  /** The planes that are on the screen: name, left, top, width, height in canvas pixels, and NiiVue's own tile. */
  #tiles() {
    const tiles = this.niivue.screenSlices.filter((tile) => tile.axCorSag < NIIVUE_PLANES.length).map((tile) => {
      const [x, y, wide, high] = tile.leftTopWidthHeight;
      return { plane: NIIVUE_PLANES[tile.axCorSag], x: Math.min(x, x + wide), y, width: Math.abs(wide), height: high, tile, mirrored: wide < 0 };
    });
    const [axial, sagittal] = ["axial", "sagittal"].map((plane) => tiles.find((tile) => tile.plane === plane));
    if (this.shared.layout === "planes" && axial && sagittal) {
      tiles.push({ ...axial, x: sagittal.x, projects: true }); // the corner of the grid that three planes leave free
    } else if (tiles.length && this.shared.project) tiles[0].projects = true;
    return tiles;
  }

  /** Where a place in the scan lies on a tile, in canvas pixels. */
  #position(tile, fraction) {
    const { right, up } = PLANES[tile.plane], mm = this.niivue.frac2mm(fraction);
    const across = (mm[right] - tile.tile.leftTopMM[0]) / tile.tile.fovMM[0];
    const above = (mm[up] - tile.tile.leftTopMM[1]) / tile.tile.fovMM[1];
    return [tile.x + (tile.mirrored ? 1 - across : across) * tile.width, tile.y + (1 - above) * tile.height];
  }

  /** The place in the scan that a canvas position shows; nothing outside of all tiles. */
  #place(x, y) {
    const tile = this.#tiles().reverse().find((own) => x >= own.x && x < own.x + own.width && y >= own.y && y < own.y + own.height);
    if (!tile) return null;
    const { right, up, through } = PLANES[tile.plane];
    const fraction = [...this.shared.cursor];
    const [from, to] = [[0, 0, 0], [1, 1, 1]].map((corner) => this.#position(tile, corner));
    fraction[right] = (x - from[0]) / (to[0] - from[0]);
    fraction[up] = (y - from[1]) / (to[1] - from[1]);
    if ([right, up].some((axis) => fraction[axis] < 0 || fraction[axis] >= 1)) return null;
    if (tile.projects) {
      const deep = this.volume.deepest(tile.plane, this.#slab(tile.plane), this.volume.voxel(fraction));
      fraction[through] = (deep + 0.5) / this.volume.sides[through];
    }
    return { fraction, tile };
  }

  #slab(plane) {
    const { through } = PLANES[plane];
    return this.volume.slab(through, this.shared.cursor[through], this.shared.slab);
  }

  #pixels(event) {
    const scale = this.canvas.width / Math.max(1, this.canvas.clientWidth);
    return [event.offsetX * scale, event.offsetY * scale];
  }

  #point(event) {
    const place = this.volume && this.#place(...this.#pixels(event));
    if (place) this.moved(place.fraction);
  }

  #scroll(event) {
    const place = this.volume && this.#place(...this.#pixels(event));
    if (!place) return;
    event.preventDefault();
    const { through } = PLANES[place.tile.plane], fraction = [...this.shared.cursor];
    const step = Math.sign(event.deltaY) / this.volume.sides[through];
    fraction[through] = Math.min(Math.max(fraction[through] + step, 0), 1 - 1e-6);
    this.moved(fraction);
  }

  #drawOverlay() {
    const { canvas, overlay } = this, context = overlay.getContext("2d");
    overlay.width = canvas.width; // which also clears it
    overlay.height = canvas.height;
    if (!this.volume) return;
    const scale = canvas.width / Math.max(1, canvas.clientWidth);
    for (const tile of this.#tiles()) {
      context.save();
      context.beginPath();
      context.rect(tile.x, tile.y, tile.width, tile.height);
      context.clip();
      if (tile.projects) this.#drawProjection(context, tile, scale);
      if (this.shared.marks) this.#drawMarks(context, tile, scale);
      if (this.shared.preview) this.#drawVoxels(context, tile, this.shared.preview.voxels);
      this.#drawCursor(context, tile, scale);
      context.restore();
    }
  }

  #drawProjection(context, tile, scale) {
    const { volume } = this, picture = this.#projection(tile.plane);
    const [from, to] = [[0, 0, 0], [1, 1, 1]].map((corner) => this.#position(tile, corner));
    context.fillRect(tile.x, tile.y, tile.width, tile.height);
    context.save();
    context.translate(from[0], to[1]);
    context.scale(Math.sign(to[0] - from[0]), 1);
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, 0, 0, Math.abs(to[0] - from[0]), from[1] - to[1]);
    context.restore();
    context.font = `${12 * scale}px system-ui, sans-serif`;
    context.fillStyle = "#fff";
    context.textBaseline = "bottom";
    const text = `${volume.bright ? "maximum" : "minimum"} over ${this.shared.slab} mm`;
    context.fillText(text, tile.x + 6 * scale, tile.y + tile.height - 4 * scale);
  }

  /** The picture of a slab, kept until another is wanted. */
  #projection(plane) {
    const { volume } = this, slab = this.#slab(plane), key = [plane, ...slab, volume.image.cal_min, volume.image.cal_max].join(" ");
    if (this.kept?.key !== key || this.kept.volume !== volume) {
      const projected = volume.project(plane, slab), picture = new OffscreenCanvas(projected.width, projected.height);
      picture.getContext("2d").putImageData(volume.paint(projected), 0, 0);
      this.kept = { key, volume, picture };
    }
    return this.kept.picture;
  }

  #drawMarks(context, tile, scale) {
    const { through } = PLANES[tile.plane], { volume } = this, { cursor, lesions, current, slab } = this.shared;
    const perMm = tile.width / Math.abs(tile.tile.fovMM[0]);
    for (const lesion of lesions) {
      // Of up to a thousand weak candidates only the one that is looked at is marked: their rings would hide the scan.
      if (lesion.reported === false && !lesion.verdict && lesion.lesion !== current) continue;
      const away = Math.abs(lesion.fraction[through] - cursor[through]) * volume.sides[through] * volume.spacing[through];
      const radius = Math.max(lesion.diameter_mm / 2, 1);
      if (away > (tile.projects ? slab / 2 : radius)) continue;
      if (lesion.voxels) this.#drawVoxels(context, tile, lesion.voxels);
      const own = lesion.lesion === current, [x, y] = this.#position(tile, lesion.fraction);
      context.lineWidth = (own ? 2.5 : 1.2) * scale;
      context.strokeStyle = COLOURS[lesion.verdict ?? "none"];
      context.setLineDash(lesion.verdict === "reject" ? [4 * scale, 3 * scale] : []);
      context.beginPath();
      context.arc(x, y, radius * perMm + 5 * scale, 0, 2 * Math.PI);
      context.stroke();
    }
    context.setLineDash([]);
  }

  /** The voxels of a grown lesion that the shown slice cuts. */
  #drawVoxels(context, tile, voxels) {
    const { right, up, through } = PLANES[tile.plane], { volume } = this;
    const slice = volume.voxel(this.shared.cursor)[through], seen = new Set();
    context.fillStyle = `${GROWN}90`;
    for (const [z, y, x] of voxels) {
      const at = volume.voxel(volume.fraction([z + 0.5, y + 0.5, x + 0.5]));
      const key = at[right] * 65536 + at[up];
      if ((!tile.projects && at[through] !== slice) || seen.has(key)) continue;
      seen.add(key);
      const [from, to] = [0, 1].map((more) => this.#position(tile, at.map((index, axis) => (index + more) / volume.sides[axis])));
      context.fillRect(Math.min(from[0], to[0]), to[1], Math.abs(to[0] - from[0]), from[1] - to[1]);
    }
  }

  /** Cross hairs that leave the middle free, so that they do not hide a small lesion. */
  #drawCursor(context, tile, scale) {
    const [x, y] = this.#position(tile, this.shared.cursor), gap = 14 * scale;
    context.strokeStyle = CURSOR;
    context.lineWidth = scale;
    context.globalAlpha = 0.8;
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(x + dx * gap, y + dy * gap);
      context.lineTo(x + dx * 9999, y + dy * 9999);
    }
    context.stroke();
    context.globalAlpha = 1;
  }
}

/** All modalities of a scan side by side, with one cursor. */
export class Views {
  constructor(place, moved) {
    this.place = place;
    this.viewers = [];
    this.shared = { cursor: [0.5, 0.5, 0.5], lesions: [], current: "", preview: null, layout: "planes", project: false, slab: 10, zoom: false, marks: true };
    this.moved = (fraction) => { this.look(fraction); moved(fraction); };
    this.levels = [0, 1];
  }

  get volumes() {
    return this.viewers.map((viewer) => viewer.volume).filter(Boolean);
  }

  /** The first modality, of whose array all points are. */
  get volume() {
    return this.viewers[0]?.volume ?? null;
  }

  /** Prepares as many viewers as a scan has modalities; those that there are are used again. */
  async prepare(count) {
    while (this.viewers.length > count) this.viewers.pop().figure.remove();
    while (this.viewers.length < count) {
      const viewer = new Viewer(this.place, this.shared, (fraction) => this.moved(fraction));
      this.viewers.push(viewer);
      await viewer.attach();
    }
  }

  show(images, described) {
    this.viewers.forEach((viewer, i) => viewer.show(images[i], described[i].name, described[i].bright));
    if (this.levels[0] !== 0 || this.levels[1] !== 1) this.window(...this.levels);
  }

  clear() {
    for (const viewer of this.viewers) viewer.clear();
    Object.assign(this.shared, { lesions: [], current: "", preview: null });
  }

  look(fraction) {
    this.shared.cursor = fraction;
    this.redraw();
  }

  /** Moves the cursor by voxels along the three axes. */
  step(by) {
    const { volume } = this;
    if (!volume) return;
    this.moved(volume.voxel(this.shared.cursor).map((index, axis) =>
      (Math.min(Math.max(index + by[axis], 0), volume.sides[axis] - 1) + 0.5) / volume.sides[axis]));
  }

  set(changes) {
    Object.assign(this.shared, changes);
    this.redraw();
  }

  window(low, high) {
    this.levels = [low, high];
    for (const viewer of this.viewers) viewer.window(low, high);
  }

  redraw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      for (const viewer of this.viewers) viewer.draw();
    });
  }
}

// A scan as numbers: voxels by their place in the body, slices, crops and projections.
// Axes are 0 left to right, 1 posterior to anterior, 2 inferior to superior; NiiVue calls that RAS.

/** The two axes that a plane shows, to the right and up, and the one that it looks along. */
export const PLANES = {
  axial: { right: 0, up: 1, through: 2 },
  coronal: { right: 0, up: 2, through: 1 },
  sagittal: { right: 1, up: 2, through: 0 },
};

const WHITE = 255;
const UINT8 = 2; // NIfTI's code of the type

export class Volume {
  /** @param image NiiVue's image; @param {boolean} bright whether lesions are brighter than what is around them */
  constructor(image, bright) {
    this.image = image;
    this.bright = bright;
    this.sides = Array.from(image.dimsRAS).slice(1, 4);
    this.spacing = Array.from(image.pixDimsRAS).slice(1, 4).map(Math.abs);
    this.steps = Array.from(image.img2RASstep);
    this.start = Array.from(image.img2RASstart).reduce((sum, value) => sum + value, 0);
  }

  /** Place in 0..1 along the three axes of a voxel-edge point z, y, x of the file's own array. */
  fraction([z, y, x]) {
    const own = [x, y, z];
    return this.image.permRAS.map((axis, i) => {
      const part = own[Math.abs(axis) - 1] / this.sides[i];
      return axis > 0 ? part : 1 - part;
    });
  }

  /** The voxel-edge point z, y, x at a place: the inverse of fraction. */
  point(fraction) {
    const own = [0, 0, 0];
    this.image.permRAS.forEach((axis, i) => {
      const part = Math.min(Math.max(axis > 0 ? fraction[i] : 1 - fraction[i], 0), 1 - 1e-9);
      own[Math.abs(axis) - 1] = part * this.sides[i];
    });
    return [own[2], own[1], own[0]];
  }

  /** The voxel that holds a place. */
  voxel(fraction) {
    return fraction.map((part, i) => Math.min(Math.max(Math.floor(part * this.sides[i]), 0), this.sides[i] - 1));
  }

  value([i, j, k]) {
    return this.image.img[this.start + i * this.steps[0] + j * this.steps[1] + k * this.steps[2]];
  }

  /** First and last index along an axis of a slab of so many mm around a place. */
  slab(axis, part, mm) {
    const middle = Math.floor(part * this.sides[axis]);
    const half = Math.round(mm / 2 / this.spacing[axis]);
    return [Math.max(0, middle - half), Math.min(this.sides[axis] - 1, middle + half)];
  }

  /**
   * The darkest (or brightest) value along the line of sight, as the rows of a picture: to the right along the plane's
   * first axis, the first row is the top.
   * @param {string} plane one of PLANES
   * @param {number[]} range first and last index of the slab; the same twice for a slice
   * @param {number[][]} [window] first and last index to the right and up; the whole plane by default
   */
  project(plane, range, window) {
    const { right, up, through } = PLANES[plane];
    const [[left, last], [low, high]] = window ?? [[0, this.sides[right] - 1], [0, this.sides[up] - 1]];
    const width = last - left + 1, height = high - low + 1;
    const values = new Float32Array(width * height).fill(NaN);
    const { img } = this.image, [a, b, c] = [this.steps[right], this.steps[up], this.steps[through]];
    for (let slice = range[0]; slice <= range[1]; slice += 1) {
      for (let row = 0; row < height; row += 1) {
        const line = high - row;
        if (line < 0 || line >= this.sides[up]) continue;
        let from = this.start + slice * c + line * b + left * a, to = row * width;
        for (let column = left; column <= last; column += 1, from += a, to += 1) {
          if (column < 0 || column >= this.sides[right]) continue;
          const value = img[from], kept = values[to];
          if (!(this.bright ? value <= kept : value >= kept)) values[to] = value;
        }
      }
    }
    return { values, width, height };
  }

  /** Index along the line of sight of the darkest (or brightest) voxel of a slab: where a click on a projection goes. */
  deepest(plane, range, voxel) {
    const { through } = PLANES[plane], at = [...voxel];
    let best = range[0];
    for (let slice = range[0]; slice <= range[1]; slice += 1) {
      const held = [...voxel];
      at[through] = slice;
      held[through] = best;
      if (this.bright ? this.value(at) > this.value(held) : this.value(at) < this.value(held)) best = slice;
    }
    return best;
  }

  /**
   * The scan as NiiVue is given it: a byte a voxel, already in grey levels. NiiVue would come to the same levels on the
   * graphics card, after taking twice or four times the bytes there, which without such a card costs seconds.
   */
  grey() {
    const kind = { datatypeCode: UINT8, numBitsPerVoxel: 8, scl_slope: 1, scl_inter: 0 };
    this.shown = Object.assign(Object.create(this.image), {
      hdr: Object.assign(Object.create(this.image.hdr), kind), img: new Uint8ClampedArray(this.image.nVox3D), cal_min: 0, cal_max: WHITE,
    });
    this.#level(this.image.img, this.shown.img);
    return this.shown;
  }

  /** Sets black and white to two shares of what NiiVue takes for the range of the scan. */
  window(low, high) {
    const { robust_min: least, robust_max: most } = this.image;
    this.image.cal_min = least + low * (most - least);
    this.image.cal_max = least + high * (most - least);
    this.#level(this.image.img, this.shown.img);
  }

  /** The grey levels of values, from black at cal_min to white at cal_max; where they are NaN, outside the scan, black. */
  #level(values, levels) {
    const { hdr, cal_min: low, cal_max: high } = this.image;
    const scale = WHITE / Math.max(high - low, 1e-12), slope = (hdr.scl_slope || 1) * scale;
    const offset = (hdr.scl_inter - low) * scale;
    for (let i = 0; i < levels.length; i += 1) levels[i] = values[i] * slope + offset;
  }

  /** A picture of values in the grey levels in which the scan is shown. */
  paint({ values, width, height }) {
    const picture = new ImageData(width, height), pixels = new Uint32Array(picture.data.buffer);
    const levels = new Uint8ClampedArray(values.length);
    this.#level(values, levels);
    levels.forEach((level, i) => { pixels[i] = 0xff000000 | (level << 16) | (level << 8) | level; });
    return picture;
  }
}

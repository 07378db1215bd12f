// What the page asks of the server. Decisions go one after another, each with the number of those before it.

async function fetched(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("the server does not answer; start nndet_review again and open the new address");
  }
  const content = await response.json().catch(() => ({ error: `answer ${response.status}` }));
  if (!response.ok && response.status !== 409) throw new Error(content.error);
  return { stale: response.status === 409, content };
}

export const listCases = async () => (await fetched("api/cases")).content;
export const describeCase = async (number) => (await fetched(`api/cases/${number}`)).content;
export const imageAddress = (number, image) =>
  new URL(`api/cases/${number}/images/${image.number}/${image.file}`, location.href).href;

/** How a lesion at a point (voxel-edge z, y, x) would be drawn: {how, volume_mm3, diameter_mm, voxels}. */
export async function growLesion(number, [z, y, x]) {
  return (await fetched(`api/cases/${number}/grown?${new URLSearchParams({ z, y, x })}`)).content;
}

/** Sends decisions about one case in their order. */
export class Decisions {
  /**
   * @param {number} number of the case
   * @param {object} state what the server said last: lesions, done, revision
   * @param {function} changed called with (state, message, saved) after every answer
   */
  constructor(number, state, changed) {
    Object.assign(this, { number, state, changed, queue: Promise.resolve(), waiting: 0, refused: 0 });
  }

  /**
   * Queues a decision; it is dropped if one before it was refused, because it was made on a state that never was.
   * Resolves to the lesions before and after it.
   */
  send(event) {
    const since = this.refused;
    this.waiting += 1;
    this.queue = this.queue.then(async () => {
      this.waiting -= 1;
      const before = this.state.lesions;
      if (this.refused !== since) return { before, after: before };
      try {
        const { stale, content } = await fetched(`api/cases/${this.number}/events`, {
          method: "POST",
          headers: { "Content-Type": "application/json" },
          body: JSON.stringify({ revision: this.state.revision, event }),
        });
        this.state = content.state;
        if (stale) this.refused += 1;
        this.changed(this.state, stale ? "Decided in another tab meanwhile: look again" : "Saved", !stale);
      } catch (error) {
        this.refused += 1;
        this.changed(this.state, `Not saved: ${error.message}`, false);
      }
      return { before, after: this.state.lesions };
    });
    return this.queue;
  }

  /** Takes over what was decided in another tab, if nothing is on its way. */
  async refresh() {
    if (this.waiting) return;
    const { state } = await describeCase(this.number);
    if (this.waiting || state.revision <= this.state.revision) return;
    this.state = state;
    this.changed(state, "Decided in another tab meanwhile", true);
  }
}

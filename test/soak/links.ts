// The workers of a factory, to be ended from outside at any moment.
// The soak runs the package as it is built; this type is not a part of its face.
import type { StartLink } from '../../dist/factories/links.js';

export class Links {
  readonly #kills = new Set<() => void>();

  /**
   * Remembers every worker that is ready. (Node does not close the files that a thread was loading when it was terminated:
   * one that is not ready yet is left alone.)
   */
  watch(start: StartLink): StartLink {
    return (events) => {
      const link = start({
        received: (batch, answer) => {
          if (batch.some(([kind]) => kind === 'ready')) this.#kills.add(kill);
          events.received(batch, answer);
        },
        ended: (how, cause) => {
          this.#kills.delete(kill);
          events.ended(how, cause);
        },
      });
      const kill = (): void => link.kill();
      return link;
    };
  }

  killOne(): void {
    const all = [...this.#kills];
    all[Math.floor(Math.random() * all.length)]?.();
  }
}

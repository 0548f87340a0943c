// What the browser keeps. It may refuse (private windows, policies): then things are kept until the page is closed.

function careful(open) {
  const kept = new Map();
  return {
    get(name) {
      try {
        return open().getItem(name) ?? kept.get(name) ?? null;
      } catch {
        return kept.get(name) ?? null;
      }
    },
    set(name, value) {
      kept.set(name, value);
      try {
        open().setItem(name, value);
      } catch {
        // Refused or full: what is kept here has to do.
      }
    },
  };
}

export const local = careful(() => window.localStorage);
export const session = careful(() => window.sessionStorage);

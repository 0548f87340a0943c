// What can go wrong between the page and the server, and how it is told: what happened, and what to do.

const SECONDS = new Intl.NumberFormat("en", { style: "unit", unit: "second", unitDisplay: "long" });

/** A request that failed. `kind` is what explain() tells apart, `message` the server's own words, if there are any. */
export class ServerError extends Error {
  constructor(kind, message = "", retryAfterSeconds = null) {
    super(message);
    this.kind = kind;
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

/** Return the error of a response that is none of success; its body may be anything, a proxy's page too. */
export async function readError(response) {
  const { message, code } = await response.json().then(
    (body) => body?.error ?? {},
    () => ({}),
  );
  const kind = kindOf(response.status, code, message);
  const wait = Number.parseFloat(response.headers.get("Retry-After"));
  return new ServerError(kind, textOf(message) || `${response.status} ${response.statusText}`, wait > 0 ? wait : null);
}

/** Return the error that a stream carries after its first chunk. */
export function streamedError({ message, code, type }) {
  return new ServerError(kindOf(0, code, message ?? type), textOf(message));
}

function kindOf(status, code, message) {
  if (status === 401) return "key";
  if (status === 429) return "busy";
  if (status === 503) return "away";
  if (status < 500 && `${code} ${message}`.match(/context|too long/i)) return "context";
  return status >= 400 && status < 500 ? "refused" : "server";
}

function textOf(message) {
  return typeof message === "string" ? message : "";
}

const TITLES = {
  key: "The server asks for a key.",
  busy: "The server is busy: its queue is full.",
  away: "The server is shutting down, or has no model.",
  unreachable: "No connection to the server.",
  broken: "The connection broke before the end.",
  context: "This is longer than the model's context.",
  refused: "The server refused the request.",
  server: "The server failed.",
};

/** Return a title and a sentence for a person. */
export function explain(error) {
  if (!(error instanceof ServerError)) return { title: "The page failed.", advice: String(error?.message ?? error) };
  return { title: TITLES[error.kind], advice: [error.message, advise(error)].filter(Boolean).join(" ") };
}

function advise(error) {
  switch (error.kind) {
    case "key":
      return "Try again to enter one.";
    case "busy":
      return error.retryAfterSeconds
        ? `Try again in ${SECONDS.format(Math.ceil(error.retryAfterSeconds))}.`
        : "Try again in a moment.";
    case "away":
      return "Try again in a moment.";
    case "unreachable":
      return "Is gpt serve still running? What you typed is kept.";
    case "broken":
      return "What had arrived is kept.";
    case "context":
      return "Shorten the text, or ask for fewer tokens in the settings.";
    default:
      return "";
  }
}

// Server-sent events of a response. Chunks of the network are cut anywhere: in a line, in a line end, in a character.

/** Yield the data of each event of a stream of bytes; comments (heartbeats) and other fields are passed over. */
export async function* readEvents(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder(); // keeps the first bytes of a character until the others come
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return; // an event without its empty line is none, says the specification
      // A carriage return at the end may be the first half of a line end: it waits for what follows.
      const lines = (rest + decoder.decode(value, { stream: true })).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield data.join("\n");
          data = [];
        } else if (line.startsWith("data:")) {
          data.push(line.slice(line[5] === " " ? 6 : 5));
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // who leaves early ends the request, and with it the server's work
  }
}

// The server's API, the OpenAI API with some fields of its own. Addresses are relative, so that a proxy may put the page under a path.

import { session } from "../storage.js";
import { ServerError, readError, streamedError } from "./errors.js";
import { readEvents } from "./stream.js";

const KEY = "gpt.key";
const ALTERNATIVES = 5; // as many as /v1/completions gives

let askForKey = async () => null;
let question = null; // two requests that need a key ask once

/** Set who asks for a key: called with whether one was refused, resolves to the key or null. */
export function onKeyNeeded(ask) {
  askForKey = ask;
}

/** Return all models that the server lists, the default first. */
export async function listModels(signal) {
  const response = await request("v1/models", null, signal);
  return (await parse(response)).data ?? [];
}

/** Return [{label, probs}] for a text. */
export async function classify(model, input, signal) {
  return (await parse(await request("v1/classify", { model, input }, signal))).data;
}

/** Yield the pieces of an answer: {text, tokens, finish, dropped, usage}, each but the text only where there is one. */
export async function* streamChat(body, signal) {
  const asked = { ...body, logprobs: true, top_logprobs: ALTERNATIVES };
  for await (const chunk of chunks("v1/chat/completions", asked, signal)) {
    const choice = chunk.choices?.[0];
    const tokens = (choice?.logprobs?.content ?? []).map(({ token, logprob, bytes, top_logprobs }) => ({
      text: token,
      bytes: bytes ?? encode(token),
      logprob,
      alternatives: (top_logprobs ?? []).map((other) => ({ text: other.token, bytes: other.bytes, logprob: other.logprob })),
    }));
    yield piece(chunk, choice?.delta?.content, tokens, choice?.finish_reason);
  }
}

/** Yield the pieces of a continuation, in the form of streamChat(). */
export async function* streamCompletion(body, signal) {
  const asked = { ...body, logprobs: ALTERNATIVES, truncate_prompt_tokens: -1 };
  for await (const chunk of chunks("v1/completions", asked, signal)) {
    const choice = chunk.choices?.[0];
    const given = choice?.logprobs;
    const tokens = (given?.tokens ?? []).map((text, place) => ({
      text,
      bytes: given.bytes?.[place] ?? encode(text),
      logprob: given.token_logprobs[place],
      alternatives: Object.entries(given.top_logprobs?.[place] ?? {}).map(([other, logprob]) => ({ text: other, logprob })),
    }));
    yield piece(chunk, choice?.text, tokens, choice?.finish_reason);
  }
}

function piece(chunk, text, tokens, finish) {
  return { text: text ?? "", tokens, finish: finish ?? null, dropped: chunk.dropped_messages ?? 0, usage: chunk.usage ?? null };
}

function encode(text) {
  return [...new TextEncoder().encode(text)];
}

async function* chunks(path, body, signal) {
  const asked = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await request(path, asked, signal);
  let complete = false;
  try {
    for await (const data of readEvents(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw streamedError(chunk.error);
      complete ||= Boolean(chunk.choices?.[0]?.finish_reason);
      yield chunk;
    }
  } catch (error) {
    if (error instanceof ServerError || signal?.aborted) throw error;
    throw new ServerError("broken");
  }
  if (!complete) throw new ServerError("broken");
}

async function request(path, body, signal) {
  for (;;) {
    const key = session.get(KEY);
    const headers = { ...(body && { "Content-Type": "application/json" }), ...(key && { Authorization: `Bearer ${key}` }) };
    let response;
    try {
      response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal, cache: "no-store" });
    } catch (error) {
      throw signal?.aborted ? error : new ServerError("unreachable");
    }
    if (response.ok) return response;
    const error = await readError(response);
    const entered = key !== session.get(KEY); // by the other request, meanwhile
    if (error.kind !== "key" || !(entered || (await newKey(key !== null)))) throw error;
    signal?.throwIfAborted();
  }
}

async function newKey(refused) {
  question ??= askForKey(refused).finally(() => (question = null));
  const key = await question;
  if (key) session.set(KEY, key);
  return Boolean(key);
}

async function parse(response) {
  try {
    return await response.json();
  } catch (error) {
    throw error.name === "AbortError" ? error : new ServerError("broken");
  }
}

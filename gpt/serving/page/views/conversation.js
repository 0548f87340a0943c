// A conversation with one model, or with two at once: the turns, and what each of them is sent.

export class Conversation {
  /** [{question, answers}]: one answer a model, in the order of the models. */
  turns = [];

  get last() {
    return this.turns.at(-1) ?? null;
  }

  begin(question) {
    this.turns.push({ question, answers: [] });
    return this.last;
  }

  /**
   * Return the messages for the model at a place (0 or 1), the open question of the last turn at the end. A turn that this model was
   * not asked in has the answer of the first. A turn without an answer is left out: templates expect that roles alternate.
   */
  messages(place, system) {
    const messages = system ? [{ role: "system", content: system }] : [];
    for (const turn of this.turns) {
      const answer = (turn.answers[place] ?? turn.answers[0])?.text;
      if (turn !== this.last && !answer) continue;
      messages.push({ role: "user", content: turn.question });
      if (turn !== this.last) messages.push({ role: "assistant", content: answer });
    }
    return messages;
  }
}

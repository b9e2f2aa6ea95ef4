// A small agent on the official SDK: it says a few words, asks whether it may go on, and says what
// it was allowed. A prompt of "wait" is answered only when it is cancelled, by the session's own
// notification or by that of the request.

import { Readable, Writable } from "node:stream";
import { agent, methods, ndJsonStream, PROTOCOL_VERSION } from "@agentclientprotocol/sdk";

const waiting = new Map(); // session -> what ends its prompt

async function say(client, sessionId, text) {
  const update = { sessionUpdate: "agent_message_chunk", content: { type: "text", text } };
  await client.notify(methods.client.session.update, { sessionId, update });
}

async function prompt({ params, client, signal }) {
  const { sessionId } = params;
  const text = params.prompt.map((block) => block.text).join("");
  if (text === "wait") {
    await new Promise((end) => {
      waiting.set(sessionId, end);
      signal.addEventListener("abort", end);
      say(client, sessionId, "waiting");
    });
    return { stopReason: "cancelled" };
  }
  for (const word of ["You", " said", ` "${text}".`]) {
    await say(client, sessionId, word);
  }
  const { outcome } = await client.request(methods.client.session.requestPermission, {
    sessionId,
    toolCall: { toolCallId: "call-1", title: "Write a file", kind: "edit", status: "pending" },
    options: [
      { optionId: "yes", name: "Allow", kind: "allow_once" },
      { optionId: "no", name: "Reject", kind: "reject_once" },
    ],
  });
  const answer = outcome.outcome === "selected" ? outcome.optionId : outcome.outcome;
  await say(client, sessionId, ` You chose ${answer}.`);
  return { stopReason: "end_turn" };
}

agent({ name: "small-agent" })
  .onRequest(methods.agent.initialize, () => ({
    protocolVersion: PROTOCOL_VERSION,
    agentCapabilities: { loadSession: false },
  }))
  .onRequest(methods.agent.session.new, () => ({ sessionId: crypto.randomUUID() }))
  .onRequest(methods.agent.session.prompt, prompt)
  .onNotification(methods.agent.session.cancel, ({ params }) => waiting.get(params.sessionId)?.())
  .connect(ndJsonStream(Writable.toWeb(process.stdout), Readable.toWeb(process.stdin)));

// A client with nothing but Node: what comes on stdin is said to the daemon, a JSON object a line,
// and what the daemon says is written to stdout.
//
//     node client.mjs unix PATH | tcp PORT
//
// It reads and writes every frame as JSON, and knows what it has asked: an answer to nothing, or a
// second one, ends it. At the end of stdin it asks for nothing more, and ends with the daemon's word.

import { connect } from "node:net";

const [kind, where] = process.argv.slice(2);
const daemon = connect(kind === "unix" ? { path: where, allowHalfOpen: true } : { port: Number(where), host: "127.0.0.1", allowHalfOpen: true });
const asked = new Set();

function lines(stream, take, end) {
  let rest = "";
  stream.setEncoding("utf8");
  stream.on("data", (text) => {
    const whole = (rest + text).split("\n");
    rest = whole.pop();
    whole.forEach(take);
  });
  stream.on("end", end);
}

function nameOf(id) {
  return JSON.stringify(id);
}

function say(line) {
  const message = JSON.parse(line);
  if ("method" in message && "id" in message) asked.add(nameOf(message.id));
  daemon.write(JSON.stringify(message) + "\n");
}

function hear(line) {
  const message = JSON.parse(line);
  const isAnswer = !("method" in message);
  if (isAnswer && !asked.delete(nameOf(message.id))) {
    console.error(`nobody asked for ${line}`);
    process.exit(1);
  }
  process.stdout.write(JSON.stringify(message) + "\n");
}

daemon.on("error", (error) => {
  console.error(String(error));
  process.exit(1);
});
daemon.on("connect", () => {
  lines(process.stdin, say, () => daemon.end());
  lines(daemon, hear, () => process.exit(0));
});

// For each line on stdin, {path, ids, word, out}: reads a compressed file, writes rows as float32 to `out`, answers with a line.
import fs from "node:fs";
import readline from "node:readline";
import { FormatError, read } from "../../reader/js/embedding-frontier.mjs";

function answer({ path, ids, out, word }) {
  try {
    const table = read(fs.readFileSync(path));
    const rows = ids ? Float32Array.from(ids.flatMap((id) => Array.from(table.row(id)))) : table.dense();
    fs.writeFileSync(out, new Uint8Array(rows.buffer));
    const found = word === null ? null : { id: table.id(word), neighbours: table.neighbours(word, 10) };
    const { method, config, words, numEmbeddings, embeddingDim, payloadBytes, fileBytes } = table;
    return { method, config, words, numEmbeddings, embeddingDim, payloadBytes, fileBytes, found };
  } catch (error) {
    return { error: error.message, kind: error instanceof FormatError ? "format" : error.constructor.name };
  }
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  process.stdout.write(JSON.stringify(answer(JSON.parse(line))) + "\n");
}

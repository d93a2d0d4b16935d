
// The word view. Everything above is the JavaScript reader, as it is in reader/js.
{
  const { byId, digits } = report;
  const data = report.read("words-data");
  const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const numbers = (text) => (text === null ? null : new Uint16Array(bytes(text).buffer));
  const [before, after, cosine] = [data.before, data.after, data.cosine].map(numbers);
  const count = data.rows;
  const width = Math.min(data.neighbours, count - 1);
  let table = null;
  const compressed = () => (table ??= read(bytes(data.file), { verify: false }));
  const words = data.file === null ? data.words : compressed().words;
  const word = (id) => (words === null ? "row " + id : words[id]);
  const rows = new Map();
  for (let id = count - 1; id >= 0; id--) rows.set(words === null ? String(id) : words[id], id);
  const similarity = (id) => (cosine[id] / 65535) * 2 - 1;

  const neighboursBefore = (id) => (before === null ? null : Array.from(before.subarray(id * width, (id + 1) * width)));
  const neighboursAfter = (id) =>
    after === null ? compressed().neighbours(id, width, count).map((one) => one.id) : Array.from(after.subarray(id * width, (id + 1) * width));

  const sorted = cosine === null ? [] : Array.from(cosine, (_, id) => id).sort((a, b) => cosine[a] - cosine[b]);
  function item(id, kept) {
    const line = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "link" + (kept ? " kept" : "");
    button.textContent = word(id);
    button.addEventListener("click", () => show(id));
    line.appendChild(button);
    return line;
  }
  function show(id) {
    byId("word").value = words === null ? String(id) : words[id];
    const [old, fresh] = [neighboursBefore(id), neighboursAfter(id)];
    const common = old === null ? new Set() : new Set(old.filter((one) => fresh.includes(one)));
    const told = [word(id)];
    if (cosine !== null) {
      const worse = sorted.indexOf(id);
      told.push("cosine with the original: " + digits(similarity(id), 3) + ", rank " + (worse + 1).toLocaleString("en-US") + " of " + count.toLocaleString("en-US") + " (worst first)");
    }
    if (old !== null) told.push(common.size + " of " + width + " neighbours kept");
    byId("word-told").textContent = told.join("; ") + ".";
    byId("word-before").replaceChildren(...(old ?? []).map((one) => item(one, common.has(one))));
    byId("word-after").replaceChildren(...fresh.map((one) => item(one, common.has(one))));
    byId("word-lists").hidden = false;
  }
  function asked() {
    const typed = byId("word").value.trim();
    const id = rows.get(typed) ?? rows.get(typed.toLowerCase());
    if (id !== undefined) return show(id);
    byId("word-lists").hidden = true;
    const start = typed.toLowerCase();
    const near = typed === "" ? [] : Array.from(rows.keys()).filter((one) => one.startsWith(start)).sort((a, b) => rows.get(a) - rows.get(b)).slice(0, 5);
    byId("word-told").textContent = typed === "" ? "" : "“" + typed + "” is not among the " + count.toLocaleString("en-US") + (count === 1 ? " row." : " rows.") + (near.length ? " Similar words: " + near.join(", ") + "." : "");
  }
  byId("word").addEventListener("input", asked);
  if (cosine !== null) {
    const quantile = (share) => digits(similarity(sorted[Math.min(count - 1, Math.floor(share * count))]), 3);
    byId("word-summary").textContent = "Half of the rows have a cosine of " + quantile(0.5) + " or more with the original; the worst twentieth has " + quantile(0.05) + " or less.";
    byId("word-worst").replaceChildren(...sorted.slice(0, 24).map((id) => {
      const line = item(id, false);
      line.append(" " + digits(similarity(id), 2));
      return line;
    }));
  }
  byId("word").placeholder = words === null ? "a row's number, 0 to " + (count - 1) : "a word";
  show(Math.min(count - 1, Math.floor(count / 20)));
}

/**
 * Reads compressed embedding tables of embedding-frontier: one file, no dependencies, in browsers and in Node.
 *
 *     import { read } from "./reader.mjs";
 *     const table = read(new Uint8Array(await (await fetch("small.safetensors")).arrayBuffer()));
 *     table.vector("dog");              // Float32Array of D values, or null
 *     table.neighbours("dog", 10);      // [{ id, word, cosine }, ...]
 *
 * The format is described in docs/format.md. Shapes: N rows, D columns. Everything is a number of float32; rows that are
 * only looked up are exact.
 */

const FORMAT_VERSION = 1;
const KEY = "embedding_frontier";
const MOST_COLUMNS = 2 ** 20; // of a file whose bytes are fewer still

/** What is wrong with a file, in one sentence. */
export class FormatError extends Error {}

function refuse(message) {
  throw new FormatError(message);
}

// Container ---------------------------------------------------------------------------------------------------------

const ITEM_BYTES = { F32: 4, F16: 2, BF16: 2, U8: 1, I8: 1, I16: 2, I32: 4 };
const TORCH = { F32: "float32", F16: "float16", BF16: "bfloat16", U8: "uint8", I8: "int8", I16: "int16", I32: "int32" };

function parseContainer(bytes) {
  if (bytes.length < 8) refuse("The file ends before its header.");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = Number(view.getBigUint64(0, true));
  if (length > bytes.length - 8) refuse("The file ends within its header, or is no safetensors file.");
  let entries;
  try {
    entries = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(8, 8 + length)));
  } catch (error) {
    refuse(`The file's header is no JSON: not a safetensors file (${error.message}).`);
  }
  const text = entries.__metadata__?.[KEY];
  if (typeof text !== "string") refuse("A safetensors file, but not a compressed table of embedding-frontier.");
  const tensors = {};
  for (const [name, entry] of Object.entries(entries)) {
    if (name === "__metadata__") continue;
    const { dtype, shape, data_offsets: offsets } = entry;
    const count = shape.reduce((product, side) => product * side, 1);
    if (!(dtype in ITEM_BYTES)) refuse(`Tensor ${name} is of type ${dtype}, which no method stores.`);
    const [begin, end] = offsets.map((offset) => 8 + length + offset);
    if (end - begin !== count * ITEM_BYTES[dtype]) refuse(`Tensor ${name} does not have the bytes of its shape.`);
    if (end > bytes.length) refuse(`The file ends before the end of tensor ${name}.`);
    tensors[name] = { name, dtype, shape, bytes: bytes.slice(begin, end) };
  }
  return { text, tensors };
}

function parseHeader(text) {
  let header;
  try {
    header = JSON.parse(text);
  } catch (error) {
    refuse(`The table's header is damaged (${error.message}).`);
  }
  if (!(header.format_version <= FORMAT_VERSION)) {
    refuse(`Format ${header.format_version} is newer than this reader (${FORMAT_VERSION}).`);
  }
  return header;
}

function checkDigest(text, header, tensors) {
  const encoder = new TextEncoder();
  const parts = [encoder.encode(text.replace(/"digest": "[0-9a-f]{32}", /, ""))];
  const names = Object.keys(tensors).sort((a, b) => (a < b ? -1 : 1));
  for (const name of names) {
    const { dtype, shape, bytes } = tensors[name];
    const sides = shape.length === 1 ? `(${shape[0]},)` : `(${shape.join(", ")})`;
    parts.push(encoder.encode(`${name}:torch.${TORCH[dtype]}:${sides};`), bytes);
  }
  if (blake2b(parts) !== header.digest) refuse("The content does not match its digest: the file was altered or damaged.");
}

/** The lines of a text; bytes that are not UTF-8 become U+FFFD. */
function decodeWords(bytes) {
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes).split("\n");
}

// Numbers -----------------------------------------------------------------------------------------------------------

function halfToFloat(half) {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >> 10) & 0x1f;
  const mantissa = half & 0x3ff;
  if (exponent === 31) return mantissa ? NaN : sign * Infinity;
  return sign * (exponent ? (1024 + mantissa) * 2 ** (exponent - 25) : mantissa * 2 ** -24);
}

function floatOfByte(byte, dtype) {
  const sign = byte & 0x80 ? -1 : 1;
  if (dtype === "float8_e4m3") {
    const exponent = (byte >> 3) & 15;
    const mantissa = byte & 7;
    if (exponent === 15 && mantissa === 7) return NaN;
    return sign * (exponent ? (8 + mantissa) * 2 ** (exponent - 10) : mantissa * 2 ** -9);
  }
  const exponent = (byte >> 2) & 31;
  const mantissa = byte & 3;
  if (exponent === 31) return mantissa ? NaN : sign * Infinity;
  return sign * (exponent ? (4 + mantissa) * 2 ** (exponent - 17) : mantissa * 2 ** -16);
}

/** The values of a floating-point tensor, as float32. */
function floats({ name, dtype, bytes }) {
  if (dtype === "F32") return new Float32Array(bytes.buffer);
  if (dtype === "F16") return Float32Array.from(new Uint16Array(bytes.buffer), halfToFloat);
  if (dtype === "BF16") return new Float32Array(Uint32Array.from(new Uint16Array(bytes.buffer), (half) => half << 16).buffer);
  return refuse(`Tensor ${name} should hold floating-point numbers, not ${dtype}.`);
}

function integers({ name, dtype, bytes }) {
  if (dtype === "U8") return bytes;
  if (dtype === "I8") return new Int8Array(bytes.buffer);
  if (dtype === "I16") return new Int16Array(bytes.buffer);
  if (dtype === "I32") return new Int32Array(bytes.buffer);
  return refuse(`Tensor ${name} should hold integers, not ${dtype}.`);
}

/** bits(K): of a code of K values. */
function bitsFor(values) {
  return Math.max(1, 32 - Math.clz32(values - 1));
}

/** The code of `bits` bits, at most 16, that begins at bit `bit` of `bytes`. */
function codeAt(bytes, bit, bits) {
  const first = Math.floor(bit / 8);
  const value = bytes[first] | ((bytes[first + 1] ?? 0) << 8) | ((bytes[first + 2] ?? 0) << 16);
  return (value >> bit % 8) & ((1 << bits) - 1);
}

/** Where each of several things begins that follow each other: the sums of the sizes before it, and of all. */
function starts(sizes) {
  const begin = new Float64Array(sizes.length + 1);
  for (let i = 0; i < sizes.length; i++) begin[i + 1] = begin[i] + sizes[i];
  return begin;
}

/** Sums of coordinates times axes, plus a mean: every method that is linear ends so. */
function combine(out, coordinates, axes, mean) {
  const dim = out.length;
  const total = new Float64Array(dim);
  if (mean) total.set(mean);
  for (let i = 0; i < coordinates.length; i++) {
    const a = coordinates[i];
    if (a === 0) continue;
    for (let j = 0, at = i * dim; j < dim; j++, at++) total[j] += a * axes[at];
  }
  out.set(total);
}

// Methods: each is given the tensors, the configuration and the shape, and returns a function (row, out) ------------

/** Packed codes of rows: a function that gives code m of a row. */
function rowCodes(tensor, count, bits, numRows) {
  const length = (count * bits + 7) >> 3;
  expectShape(tensor, [numRows, length]);
  const bytes = tensor.bytes;
  if (bits === 8) return (row, m) => bytes[row * length + m];
  return (row, m) => codeAt(bytes, row * length * 8 + m * bits, bits);
}

function expectShape(tensor, shape) {
  if (tensor.shape.length !== shape.length || tensor.shape.some((side, i) => shape[i] !== null && side !== shape[i])) {
    refuse(`Tensor ${tensor.name} has the shape (${tensor.shape.join(", ")}), not (${shape.map((s) => s ?? "any").join(", ")}).`);
  }
}

function expectTypes(tensors, types) {
  for (const [dtype, names] of Object.entries(types)) {
    for (const name of names.split(" ")) {
      if (name in tensors && tensors[name].dtype !== dtype) refuse(`Tensor ${name} is of type ${tensors[name].dtype}, not ${dtype}.`);
    }
  }
}

function verbatim(values, dim) {
  return (row, out) => out.set(values.subarray(row * dim, (row + 1) * dim));
}

function readIdentity({ vectors }, config, [numRows, dim]) {
  expectShape(vectors, [numRows, dim]);
  return verbatim(floats(vectors), dim);
}

function readCast({ vectors }, { dtype }, [numRows, dim]) {
  expectShape(vectors, [numRows, dim]);
  expectTypes({ vectors }, { [{ float16: "F16", bfloat16: "BF16" }[dtype] ?? "U8"]: "vectors" });
  return verbatim(
    vectors.dtype === "U8" ? Float32Array.from(vectors.bytes, (byte) => floatOfByte(byte, dtype)) : floats(vectors),
    dim,
  );
}

function readScalar({ codes, scale, zero_point: zeroPoint, levels }, config, [numRows, dim]) {
  const code = rowCodes(codes, dim, config.bits, numRows);
  const groups = { table: 1, column: dim, row: numRows }[config.scales];
  expectShape(scale, [groups]);
  expectShape(zeroPoint, [groups]);
  const [unit, zero] = [floats(scale), floats(zeroPoint)];
  const level = config.levels === "kmeans" ? floats(levels) : null;
  return (row, out) => {
    for (let j = 0; j < dim; j++) {
      const group = config.scales === "table" ? 0 : config.scales === "row" ? row : j;
      const value = code(row, j);
      out[j] = zero[group] + Math.fround(unit[group] * (level ? level[value] : value));
    }
  };
}

function readPruned({ values, mask, columns, row_counts: rowCounts }, config, [numRows, dim]) {
  const kept = floats(values);
  if (!mask) {
    if (!(columns && rowCounts)) refuse("The file has no tensor mask, and not both columns and row_counts.");
    expectShape(rowCounts, [Math.ceil((numRows * bitsFor(dim + 1)) / 8)]);
    expectShape(columns, [Math.ceil((kept.length * bitsFor(dim)) / 8)]);
  }
  const masked = mask && rowCodes(mask, dim, 1, numRows);
  const counts = new Uint32Array(numRows);
  for (let row = 0; row < numRows; row++) {
    if (masked) for (let j = 0; j < dim; j++) counts[row] += masked(row, j);
    else counts[row] = codeAt(rowCounts.bytes, row * bitsFor(dim + 1), bitsFor(dim + 1));
  }
  const begin = starts(counts);
  if (begin[numRows] !== kept.length) refuse(`${begin[numRows]} values are placed, and ${kept.length} are stored.`);
  return (row, out) => {
    out.fill(0);
    let at = begin[row];
    if (masked) {
      for (let j = 0; j < dim; j++) if (masked(row, j)) out[j] = kept[at++];
    } else {
      for (; at < begin[row + 1]; at++) {
        const column = codeAt(columns.bytes, at * bitsFor(dim), bitsFor(dim));
        if (column >= dim) refuse(`A value stands in column ${column} of ${dim}.`);
        out[column] = kept[at];
      }
    }
  };
}

function mix(value) {
  value = Math.imul(value ^ (value >>> 16), 0x85ebca6b);
  value = Math.imul(value ^ (value >>> 13), 0xc2b2ae35);
  return (value ^ (value >>> 16)) >>> 0;
}

/** floor(hash * places / 2^32): the product has up to 63 bits, more than a number holds. */
function scaled(hash, places) {
  return Math.floor(((hash >>> 16) * places + Math.floor(((hash & 0xffff) * places) / 65536)) / 65536);
}

function readHashed({ pool }, config, [numRows, dim]) {
  const { pool_size: size, block_size: width, overlapping, signs } = config;
  const places = overlapping ? size : Math.floor(size / width);
  expectShape(pool, [overlapping ? size : places * width]);
  const values = floats(pool);
  const blocks = Math.ceil(dim / width);
  const wide = numRows * blocks > 0xffffffff;
  const seed = mix(config.hash_seed);
  return (row, out) => {
    for (let block = 0, j = 0; block < blocks; block++) {
      const number = row * blocks + block;
      let key = number % 2 ** 32 | 0;
      if (wide) key ^= Math.imul(Math.floor(number / 2 ** 32), 0x9e3779b9);
      const hash = mix(key ^ seed);
      const address = scaled(hash, places) * (overlapping ? 1 : width);
      const sign = signs && hash & 1 ? -1 : 1;
      for (let o = 0; o < width && j < dim; o++, j++) out[j] = sign * values[(address + o) % size];
    }
  };
}

/** Which block each column is in: the first D mod M blocks are a column wider. */
function blockOfColumn(dim, count) {
  const width = Math.floor(dim / count);
  const wider = (dim % count) * (width + 1);
  return Uint16Array.from({ length: dim }, (_, j) =>
    j < wider ? Math.floor(j / (width + 1)) : (dim % count) + Math.floor((j - wider) / width),
  );
}

/**
 * Codewords as a Float32Array; in I8 they are whole numbers times factors: one for each row of the tensor, or, where
 * `block` gives each column's block, one for each block of a row.
 */
function codewords(tensors, name, block = null) {
  const tensor = tensors[name];
  if (tensor.dtype !== "I8") return floats(tensor);
  const scale = tensors[`${name}_scale`];
  if (!scale) refuse(`The file has no tensor ${name}_scale, which ${name} in I8 needs.`);
  const dim = tensor.shape[tensor.shape.length - 1];
  const blocks = block ? block[dim - 1] + 1 : 1;
  expectShape(scale, [...tensor.shape.slice(0, -1), ...(block ? [blocks] : [])]);
  const factors = floats(scale);
  const out = new Float32Array(integers(tensor));
  for (let row = 0, at = 0; at < out.length; row++) {
    for (let j = 0; j < dim; j++, at++) out[at] *= factors[row * blocks + (block ? block[j] : 0)];
  }
  return out;
}

function readPQ(tensors, config, [numRows, dim]) {
  const { codes, codebooks } = tensors;
  const count = Math.min(config.num_codebooks, dim);
  const code = rowCodes(codes, count, bitsFor(config.codebook_size), numRows);
  expectShape(codebooks, [config.codebook_size, dim]);
  const block = blockOfColumn(dim, count);
  const values = codewords(tensors, "codebooks", block);
  return (row, out) => {
    for (let j = 0, last = -1, at = 0; j < dim; j++) {
      if (block[j] !== last) at = code(row, (last = block[j])) * dim;
      out[j] = values[at + j];
    }
  };
}

function readOPQ(tensors, config, shape) {
  const dim = shape[1];
  const rotated = readPQ(tensors, config, shape);
  expectShape(tensors.rotation, [dim, dim]);
  const rotation = codewords(tensors, "rotation");
  const y = new Float32Array(dim);
  return (row, out) => {
    rotated(row, y);
    for (let j = 0; j < dim; j++) {
      let total = 0;
      for (let i = 0, at = j * dim; i < dim; i++, at++) total += y[i] * rotation[at];
      out[j] = total;
    }
  };
}

function readAdditive(tensors, config, [numRows, dim]) {
  const { codes, codebooks } = tensors;
  const { num_codebooks: count, codebook_size: size } = config;
  const code = rowCodes(codes, count, bitsFor(size), numRows);
  expectShape(codebooks, [count, size, dim]);
  const values = codewords(tensors, "codebooks");
  return (row, out) => {
    out.fill(0);
    for (let m = 0; m < count; m++) {
      // A Float32Array rounds each sum to float32, as the format says.
      for (let j = 0, at = (m * size + code(row, m)) * dim; j < dim; j++, at++) out[j] += values[at];
    }
  };
}

function readBin(tensors, config, [numRows, dim]) {
  const { codes, decoder, bias, scale } = tensors;
  const count = config.num_bits;
  const bit = rowCodes(codes, count, 1, numRows);
  expectShape(decoder, [count, dim]);
  expectShape(bias, [dim]);
  const [axes, mean, [length]] = [codewords(tensors, "decoder"), floats(bias), floats(scale)];
  const coordinates = new Float32Array(count);
  return (row, out) => {
    for (let i = 0; i < count; i++) coordinates[i] = bit(row, i);
    combine(out, coordinates, axes, mean);
    for (let j = 0; j < dim; j++) out[j] = length * Math.tanh(out[j]);
  };
}

function readAdaComp(tensors, { code_lengths: lengths }, [numRows, dim]) {
  const { codes, books, decoder, bias } = tensors;
  const first = starts(lengths);
  expectShape(decoder, [first[lengths.length], dim]);
  expectShape(bias, [lengths.length, dim]);
  const [axes, means] = [codewords(tensors, "decoder"), floats(bias)];
  if (8 * codes.bytes.length < numRows * Math.min(...lengths)) refuse("Tensor codes does not have the bits of its rows.");
  const width = bitsFor(lengths.length);
  const book = Uint8Array.from({ length: numRows }, (_, row) => (books ? codeAt(books.bytes, row * width, width) : 0));
  const begin = starts(Array.from(book, (k) => lengths[k]));
  if (codes.bytes.length !== Math.ceil(begin[numRows] / 8)) refuse("Tensor codes does not have the bits of its rows.");
  return (row, out) => {
    const k = book[row];
    const coordinates = Float32Array.from({ length: lengths[k] }, (_, i) => codeAt(codes.bytes, begin[row] + i, 1));
    combine(out, coordinates, axes.subarray(first[k] * dim), means.subarray(k * dim, (k + 1) * dim));
  };
}

function readLowRank({ factors, basis, mean, scale, zero }, config, [numRows, dim]) {
  expectShape(basis, [null, dim]);
  const rank = basis.shape[0];
  const [axes, middle] = [floats(basis), mean && floats(mean)];
  if (!scale) {
    expectShape(factors, [numRows, rank]);
    const values = floats(factors);
    return (row, out) => combine(out, values.subarray(row * rank, (row + 1) * rank), axes, middle);
  }
  const code = rowCodes(factors, rank, config.factor_bits, numRows);
  const [unit, low] = [floats(scale), floats(zero)];
  return (row, out) => combine(out, Float64Array.from(unit, (step, i) => low[i] + code(row, i) * step), axes, middle);
}

function readTT(tensors, config, [numRows, dim]) {
  if (![2, 3, 4].includes(config.num_cores)) refuse(`There are no trains of ${config.num_cores} cores.`);
  const cores = Array.from({ length: config.num_cores }, (_, k) => {
    const tensor = tensors[`core_${k}`] ?? refuse(`The file has no tensor core_${k}.`);
    const last = k === config.num_cores - 1;
    expectShape(tensor, [null, k ? tensors[`core_${k - 1}`].shape[3] : 1, null, last ? 1 : null]);
    const [n, before, d, after] = tensor.shape;
    return { values: floats(tensor), n, before, d, after };
  });
  const [rows, columns] = ["n", "d"].map((side) => cores.reduce((product, core) => product * core[side], 1));
  if (rows < numRows || columns < dim) refuse(`The cores have ${rows} rows of ${columns} columns.`);
  return (row, out) => {
    const digits = [];
    for (let k = cores.length - 1, rest = row; k >= 0; k--) {
      digits[k] = rest % cores[k].n;
      rest = Math.floor(rest / cores[k].n);
    }
    let left = Float64Array.of(1);
    let columns = 1;
    cores.forEach(({ values, before, d, after }, k) => {
      const base = digits[k] * before * d * after;
      const next = new Float64Array(columns * d * after);
      for (let c = 0; c < columns; c++) {
        for (let r = 0; r < before; r++) {
          const factor = left[c * before + r];
          for (let i = 0, at = base + r * d * after; i < d * after; i++, at++) next[c * d * after + i] += factor * values[at];
        }
      }
      left = next;
      columns *= d;
    });
    out.set(left.subarray(0, dim));
  };
}

/** The positive levels of each number of bits, ascending. */
const GAUSSIAN_LEVELS = [
  [],
  [0.7978846],
  [0.45278004, 1.5104176],
  [0.24509418, 0.7560053, 1.3439093, 2.1519456],
  [
    0.12839542, 0.38804942, 0.65676093, 0.9423428, 1.2562339, 1.6180493, 2.06902, 2.732592,
  ],
  [
    0.06614267, 0.19880606, 0.33261943, 0.46840397, 0.6070691, 0.7496617, 0.89743376, 1.0519403, 1.2151897, 1.3898894,
    1.5798721, 1.7909001, 2.032342, 2.321217, 2.6943634, 3.2635934,
  ],
  [
    0.033857007, 0.10162021, 0.1695315, 0.2376912, 0.30620217, 0.37517098, 0.44470885, 0.51493347, 0.5859703,
    0.65795434, 0.7310327, 0.8053671, 0.8811372, 0.9585444, 1.0378174, 1.119218, 1.2030504, 1.289671, 1.3795035,
    1.4730585, 1.5709605, 1.6739867, 1.7831235, 1.8996518, 2.0252812, 2.1623719, 2.3143215, 2.4863005, 2.6867847,
    2.9312623, 3.2534015, 3.755738,
  ],
  [
    0.016959697, 0.050885595, 0.08483103, 0.11880908, 0.15283293, 0.18691583, 0.22107129, 0.25531292, 0.28965464,
    0.32411063, 0.35869533, 0.39342365, 0.4283108, 0.46337262, 0.49862528, 0.53408563, 0.5697712, 0.60570014,
    0.64189136, 0.67836475, 0.7151411, 0.7522422, 0.789691, 0.82751167, 0.86572987, 0.9043727, 0.943469, 0.9830493,
    1.0231464, 1.0637952, 1.1050332, 1.1469008, 1.1894412, 1.2327014, 1.2767324, 1.3215897, 1.3673335, 1.4140304,
    1.4617532, 1.5105828, 1.5606089, 1.6119317, 1.6646639, 1.718933, 1.7748839, 1.8326826, 1.892521, 1.9546224,
    2.019249, 2.0867121, 2.1573849, 2.231721, 2.3102787, 2.3937566, 2.4830463, 2.5793097, 2.6841033, 2.7995825,
    2.9288595, 3.07668, 3.2508435, 3.465633, 3.7521653, 4.2054358,
  ],
  [
    0.008479737, 0.025440022, 0.042402748, 0.05936954, 0.07634204, 0.09332186, 0.110310666, 0.12731008, 0.14432177,
    0.1613474, 0.17838864, 0.19544715, 0.21252465, 0.22962283, 0.24674343, 0.26388815, 0.2810588, 0.29825708,
    0.31548482, 0.33274385, 0.35003597, 0.36736307, 0.38472697, 0.40212965, 0.41957304, 0.43705907, 0.45458975,
    0.47216713, 0.4897933, 0.5074703, 0.52520037, 0.5429856, 0.56082827, 0.5787307, 0.5966951, 0.614724, 0.6328197,
    0.65098476, 0.6692217, 0.68753314, 0.70592177, 0.72439027, 0.7429415, 0.7615784, 0.7803039, 0.799121, 0.8180329,
    0.83704287, 0.8561542, 0.8753704, 0.89469486, 0.9141314, 0.9336837, 0.9533557, 0.9731515, 0.99307525, 1.0131313,
    1.0333241, 1.0536582, 1.0741388, 1.0947706, 1.1155589, 1.1365092, 1.1576271, 1.1789185, 1.2003895, 1.2220466,
    1.2438966, 1.2659463, 1.288203, 1.3106745, 1.3333689, 1.3562945, 1.3794602, 1.4028753, 1.4265497, 1.4504936,
    1.4747179, 1.4992341, 1.5240544, 1.5491915, 1.5746592, 1.6004717, 1.6266445, 1.6531938, 1.6801369, 1.7074922,
    1.7352796, 1.7635199, 1.7922357, 1.8214513, 1.8511924, 1.881487, 1.912365, 1.943859, 1.9760038, 2.0088377,
    2.0424016, 2.076741, 2.1119046, 2.1479468, 2.1849267, 2.22291, 2.2619693, 2.3021858, 2.3436499, 2.3864644,
    2.4307446, 2.4766228, 2.52425, 2.573802, 2.6254823, 2.679531, 2.736234, 2.795933, 2.8590448, 2.9260826, 2.99769,
    3.0746882, 3.158149, 3.2495112, 3.350768, 3.4648025, 3.5960174, 3.7516587, 3.9450188, 4.2051086, 4.620682,
  ],
];

/** All levels of `bits` bits, ascending. */
function gaussianLevels(bits) {
  const positive = GAUSSIAN_LEVELS[bits];
  return Float32Array.from(bits ? [...positive.map((level) => -level).reverse(), ...positive] : [0]);
}

function readTransform({ codes, bits, scale, basis, mean }, config, [numRows, dim]) {
  expectShape(basis, [null, dim]);
  const rank = basis.shape[0];
  expectShape(bits, [rank]);
  const [axes, middle, unit, widths] = [floats(basis), floats(mean), floats(scale), bits.bytes];
  if (widths.some((width) => width > 8)) refuse("An axis has more than 8 bits.");
  const levels = Array.from(widths, gaussianLevels);
  const begin = starts(widths);
  const length = Math.ceil(begin[rank] / 8);
  expectShape(codes, [numRows, length]);
  return (row, out) => {
    const coordinates = Float64Array.from(unit, (step, i) => {
      const code = widths[i] ? codeAt(codes.bytes, row * length * 8 + begin[i], widths[i]) : 0;
      return step * levels[i][code];
    });
    combine(out, coordinates, axes, middle);
  };
}

const PRECISION = 1 << 14;

/** A frequency table: for every number below 2^14 the entry that it stands for. */
function frequencyTable(frequency) {
  const before = starts(frequency);
  if (before[frequency.length] !== PRECISION) refuse(`The frequencies of a table add up to ${before[frequency.length]}.`);
  const entry = new Uint16Array(PRECISION);
  frequency.forEach((_, e) => entry.fill(e, before[e], before[e + 1]));
  return { entry, before, frequency };
}

/** Reads one symbol for each of `tables` from the bytes begin .. end of a stream. */
function rangeDecode(stream, begin, end, tables) {
  let position = begin;
  let code = 0;
  let span = 2 ** 32;
  const next = () => {
    const at = position++;
    return at < end ? stream[at] : 0;
  };
  for (let i = 0; i < 4; i++) code = code * 256 + next();
  return tables.map(({ entry, before, frequency }) => {
    const unit = Math.floor(span / PRECISION);
    const found = entry[Math.min(Math.floor(code / unit), PRECISION - 1)];
    code -= unit * before[found];
    span = unit * frequency[found];
    while (span < 2 ** 24) {
      code = code * 256 + next();
      span *= 256;
    }
    return found;
  });
}

const SYMBOLS_A_BLOCK = 256;

/** A range-coded list: one symbol for each row. */
function decodeList(stream, blockBytes, frequencies, numRows) {
  const begin = starts(integers(blockBytes));
  if (begin.length - 1 !== Math.ceil(numRows / SYMBOLS_A_BLOCK) || begin.at(-1) !== stream.bytes.length) {
    refuse(`The blocks of ${stream.name} take ${begin.at(-1)} bytes, and ${stream.bytes.length} are stored.`);
  }
  const tables = new Array(SYMBOLS_A_BLOCK).fill(frequencyTable(integers(frequencies)));
  const found = new Uint16Array((begin.length - 1) * SYMBOLS_A_BLOCK);
  for (let block = 0; block < begin.length - 1; block++) {
    found.set(rangeDecode(stream.bytes, begin[block], begin[block + 1], tables), block * SYMBOLS_A_BLOCK);
  }
  return found.subarray(0, numRows);
}

function readTransformEntropy(tensors, config, [numRows, dim]) {
  expectShape(tensors.basis, [null, dim]);
  const [axes, mean, [step], shrink] = [tensors.basis, tensors.mean, tensors.step, tensors.shrink].map(floats);
  const names = ["table_axes", "table_sizes", "frequency", "shortest"];
  const [tableAxes, tableSizes, frequency, [shortest]] = names.map((name) => integers(tensors[name]));
  const lengths = decodeList(tensors.lengths, tensors.length_bytes, tensors.length_frequency, numRows);
  const begin = starts(Float64Array.from(lengths, (symbol) => shortest + symbol));
  const stream = tensors.stream.bytes;
  if (begin[numRows] !== stream.length) refuse(`The rows take ${begin[numRows]} bytes, and the stream has ${stream.length}.`);
  const tableBegin = starts(tableSizes);
  const tables = [];
  tableAxes.forEach((count, table) => {
    const one = frequencyTable(frequency.subarray(tableBegin[table], tableBegin[table + 1]));
    one.values = Array.from(one.frequency, (_, e) => {
      const k = e - (tableSizes[table] >> 1);
      return Math.fround(step * Math.fround(k - Math.sign(k) * shrink[table]));
    });
    for (let i = 0; i < count; i++) tables.push(one);
  });
  return (row, out) => {
    const symbols = rangeDecode(stream, begin[row], begin[row + 1], tables);
    combine(out, symbols.map((entry, i) => tables[i].values[entry]), axes, mean);
  };
}

/** What the state is combined with after a column of the second quantizer, and after an odd symbol, by the number of states. */
const MACHINES = { 4: [2, 1], 8: [5, 2], 16: [9, 2], 32: [18, 4], 64: [33, 10] };

/**
 * Shares the numbers below `total` out among the symbols 0, 1, -1, 2, .. of a context, called 0, 1, 2, 3, ..: which symbol has
 * each number, and as which of its numbers. frequencies: of each symbol.
 */
function shareNumbers(frequencies, total) {
  const symbol = new Uint16Array(total);
  const index = new Uint16Array(total);
  const order = new Float64Array(total);
  let pair = 0;
  frequencies.forEach((count, e) => {
    for (let i = 0; i < count; i++, pair++) {
      symbol[pair] = e;
      index[pair] = i;
      // Fractions that differ do so by more than 2^-31; what is below is the pair itself, those of lesser symbols first.
      order[pair] = Math.floor(((2 * i + (e ? 1 : 0)) / count) * 2 ** 31) * total + pair;
    }
  });
  return Array.from(order.sort(), (key) => ({ symbol: symbol[key % total], index: index[key % total] }));
}

/** For every context and every number below 2^P: how the number goes on, what the state is combined with, and the value. */
function readContexts({ precision, largest, frequency, shrink, step }, states) {
  const [[bits], most, stored] = [precision, largest, frequency].map(integers);
  const [less, [unit]] = [shrink, step].map(floats);
  if (bits < 1 || bits > 15) refuse(`Numbers of ${bits} bits are not 1 to 15.`);
  expectShape(shrink, [most.length, 3]);
  if (!(Number.isFinite(unit) && less.every(Number.isFinite))) refuse("Tensor step or shrink is not finite.");
  const begin = starts(most);
  if (most.some((one) => one < 0) || begin[most.length] !== stored.length) {
    refuse("Tensor frequency does not have the numbers that largest asks for.");
  }
  const total = 2 ** bits;
  const [afterSecond, afterOdd] = MACHINES[states] ?? refuse(`There is no machine of ${states} states.`);
  const [times, index, flip] = [Uint16Array, Uint16Array, Uint8Array].map((type) => new type(most.length * total));
  const value = new Float32Array(most.length * total);
  for (let context = 0; context < most.length; context++) {
    const second = context % 2;
    const frequencies = [total];
    for (const one of stored.subarray(begin[context], begin[context + 1])) {
      if (one < 1) refuse("Tensor frequency has a number below 1.");
      frequencies.push(one, one);
      frequencies[0] -= 2 * one;
    }
    if (frequencies[0] < 1) refuse(`The frequencies of context ${context} leave nothing to 0.`);
    shareNumbers(frequencies, total).forEach((pair, number) => {
      const at = context * total + number;
      const magnitude = (pair.symbol + 1) >> 1;
      times[at] = frequencies[pair.symbol];
      index[at] = pair.index;
      flip[at] = (second ? afterSecond : 0) ^ (magnitude % 2 ? afterOdd : 0);
      if (magnitude) {
        const size = Math.fround(2 * magnitude - second - less[3 * context + Math.min(magnitude, 3) - 1]);
        value[at] = (pair.symbol % 2 ? size : -size) * unit;
      }
    });
  }
  return { bits, count: most.length, times, index, flip, value };
}

/** Where each row's head and words are, by its class. */
function readSlots({ heads, tails, classes, class_bytes: classBytes, class_frequency: classFrequency, ...tensors }, numRows) {
  const slotBytes = integers(tensors.slot_bytes);
  if (slotBytes.some((bytes) => bytes < 0)) refuse("Tensor slot_bytes has negative lengths.");
  let classOf = new Uint16Array(numRows);
  if (slotBytes.length > 1) {
    if (!(classes && classBytes && classFrequency)) refuse("The file has no classes of its rows.");
    expectShape(classFrequency, [slotBytes.length]);
    classOf = decodeList(classes, classBytes, classFrequency, numRows);
  }
  const words = Array.from(slotBytes, (bytes) => Math.max(0, (bytes >> 2) - 1));
  const headBytes = Array.from(slotBytes, (bytes, one) => bytes - 4 * words[one]);
  const wordBegin = starts(Float64Array.from(classOf, (one) => words[one]));
  const headBegin = starts(Float64Array.from(classOf, (one) => headBytes[one]));
  expectShape(tails, [wordBegin[numRows]]);
  expectShape(heads, [headBegin[numRows]]);
  return { classOf, wordBegin, headBegin };
}

const TRELLIS_TYPES = {
  U8: "heads classes table_row table_of precision",
  I16: "class_bytes class_frequency slot_bytes largest frequency",
  F32: "step basis_scale mean",
  I32: "tails",
  F16: "shrink",
  I8: "basis",
};

function readTrellis(tensors, config, [numRows, dim]) {
  const { table_row: tableRow, table_of: tableOf, basis, basis_scale: basisScale, mean } = tensors;
  expectTypes(tensors, TRELLIS_TYPES);
  if (config.rank && !(basis && basisScale)) refuse("The file has no tensor basis or basis_scale, which its rank needs.");
  expectShape(mean, [dim]);
  if (basis) expectShape(basis, [null, dim]);
  const rank = basis ? basis.shape[0] : dim;
  if (basis) expectShape(basisScale, [rank]);
  const { classOf, wordBegin, headBegin } = readSlots(tensors, numRows);
  const { bits, count, times, index, flip, value } = readContexts(tensors, config.states);
  expectShape(tableRow, [tensors.slot_bytes.shape[0]]);
  expectShape(tableOf, [null, rank]);
  const [rowOfClass, tables] = [integers(tableRow), integers(tableOf)];
  if (rowOfClass.some((one) => one >= tableOf.shape[0]) || tables.some((one) => 2 * one + 1 >= count)) {
    refuse("A column has a table that is not there.");
  }
  const [heads, words] = [tensors.heads.bytes, Uint32Array.from(integers(tensors.tails))];
  const middle = floats(mean);
  const scale = basis && floats(basisScale);
  const axes = basis && Float32Array.from(integers(basis), (one, at) => one * scale[Math.floor(at / dim)]);
  const [mask, below] = [2 ** bits - 1, 2 ** (32 - bits)];
  const coordinates = new Float32Array(rank);
  return (row, out) => {
    // The number, below 2^63, is high * 2^32 + low: products of its parts with a frequency are exact.
    let [high, low, place, state] = [0, 0, wordBegin[row], 0];
    for (let at = headBegin[row + 1] - 1; at >= headBegin[row]; at--) {
      high = high * 256 + (low >>> 24);
      low = ((low << 8) | heads[at]) >>> 0;
    }
    const short = () => high === 0 && low < 2 ** 31 && place < wordBegin[row + 1];
    const takeWord = () => {
      high = low;
      low = words[place++];
    };
    while (short()) takeWord();
    for (let j = 0, table = rowOfClass[classOf[row]] * rank; j < rank; j++, table++) {
      const at = (2 * tables[table] + (state & 1)) * (mask + 1) + (low & mask);
      const upper = high * times[at];
      const carried = Math.floor(upper / (mask + 1));
      const lower = (upper - carried * (mask + 1)) * below + (low >>> bits) * times[at] + index[at];
      high = carried + (lower >= 2 ** 32 ? 1 : 0);
      low = lower >>> 0;
      state = (state >> 1) ^ flip[at];
      coordinates[j] = value[at];
      if (j % 2 && short()) takeWord();
    }
    if (axes) combine(out, coordinates, axes, middle);
    else for (let j = 0; j < dim; j++) out[j] = coordinates[j] + middle[j];
  };
}

/** Every method: the tensors that it must have, and what reads them. */
const METHODS = {
  identity: [["vectors"], readIdentity],
  cast: [["vectors"], readCast],
  scalar: [["codes", "scale", "zero_point"], readScalar],
  pruned: [["values"], readPruned],
  hashed: [["pool"], readHashed],
  pq: [["codes", "codebooks"], readPQ],
  dpq: [["codes", "codebooks"], readPQ],
  opq: [["codes", "codebooks", "rotation"], readOPQ],
  rq: [["codes", "codebooks"], readAdditive],
  lsq: [["codes", "codebooks"], readAdditive],
  dccl: [["codes", "codebooks"], readAdditive],
  bin: [["codes", "decoder", "bias", "scale"], readBin],
  adacomp: [["codes", "decoder", "bias"], readAdaComp],
  lowrank: [["factors", "basis"], readLowRank],
  tt: [["core_0"], readTT],
  transform: [["codes", "bits", "scale", "basis", "mean"], readTransform],
  transform_entropy: [
    [
      ...["basis", "mean", "step", "shrink", "table_axes", "table_sizes", "frequency", "stream"],
      ...["shortest", "lengths", "length_frequency", "length_bytes"],
    ],
    readTransformEntropy,
  ],
  trellis: [
    [
      ...["heads", "tails", "slot_bytes", "table_row", "table_of", "precision", "largest", "frequency", "shrink"],
      ...["step", "mean"],
    ],
    readTrellis,
  ],
};

/** Names of the methods that this reader reads. */
export const methods = Object.keys(METHODS);

// The table ---------------------------------------------------------------------------------------------------------

/**
 * A compressed table. Rows are rebuilt when they are asked for.
 *
 * method: name of the method. config: its parameters. numEmbeddings: N. embeddingDim: D. words: N words, or null.
 * payloadBytes: bytes of all that rebuilds the rows. fileBytes: of the whole file.
 */
export class CompressedTable {
  #rebuild;
  #ids = null;
  #unit = null;

  constructor(header, words, rebuild, payloadBytes, fileBytes) {
    this.method = header.method;
    this.config = header.config;
    this.numEmbeddings = header.num_embeddings;
    this.embeddingDim = header.embedding_dim;
    this.words = words;
    this.payloadBytes = payloadBytes;
    this.fileBytes = fileBytes;
    this.#rebuild = rebuild;
  }

  /** Row `id` as a Float32Array of D values. Throws a RangeError where there is no such row. */
  row(id) {
    if (!Number.isInteger(id) || id < 0 || id >= this.numEmbeddings) {
      throw new RangeError(`Rows are numbered 0 to ${this.numEmbeddings - 1}; there is no row ${id}.`);
    }
    const out = new Float32Array(this.embeddingDim);
    this.#rebuild(id, out);
    return out;
  }

  /** The first `count` rows (default: all), one after another, as a Float32Array of count * D values. */
  dense(count = this.numEmbeddings) {
    const dim = this.embeddingDim;
    const out = new Float32Array(count * dim);
    for (let id = 0; id < count; id++) out.set(this.row(id), id * dim);
    return out;
  }

  /** The row of a word, or -1. Of a word that stands twice, the first. */
  id(word) {
    if (this.#ids === null) {
      this.#ids = new Map();
      (this.words ?? []).forEach((one, id) => {
        if (!this.#ids.has(one)) this.#ids.set(one, id);
      });
    }
    return this.#ids.get(word) ?? -1;
  }

  /** The vector of a word, or null where it has none. */
  vector(word) {
    const id = this.id(word);
    return id < 0 ? null : this.row(id);
  }

  /**
   * The rows of the largest cosine with a word, a row or a vector, the nearest first; the word's own row is left out.
   *
   * of: a word, a row's number, or D values. count: how many. among: only the first so many rows are searched (default: all).
   * Returns [{ id, word, cosine }], or null where the word has no row. The first call rebuilds all rows that are searched.
   */
  neighbours(of, count = 10, among = this.numEmbeddings) {
    const given = typeof of === "object";
    const query = given || typeof of === "number" ? of : this.id(of);
    if (query < 0) return null;
    const dim = this.embeddingDim;
    if (this.#unit === null || this.#unit.length !== among * dim) this.#unit = normalized(this.dense(among), dim);
    const own = normalized(given ? Float32Array.from(of) : this.row(query), dim);
    const best = [];
    for (let id = 0; id < among; id++) {
      if (id === query) continue;
      let cosine = 0;
      for (let j = 0, at = id * dim; j < dim; j++, at++) cosine += own[j] * this.#unit[at];
      if (best.length === count && cosine <= best[count - 1].cosine) continue;
      let place = best.length;
      while (place > 0 && best[place - 1].cosine < cosine) place--;
      best.splice(place, 0, { id, word: this.words ? this.words[id] : String(id), cosine });
      if (best.length > count) best.pop();
    }
    return best;
  }
}

/** Rows divided by their lengths, in place; rows of zeros stay. */
function normalized(values, dim) {
  for (let begin = 0; begin < values.length; begin += dim) {
    let square = 0;
    for (let j = begin; j < begin + dim; j++) square += values[j] * values[j];
    const length = Math.sqrt(square) || 1;
    for (let j = begin; j < begin + dim; j++) values[j] /= length;
  }
  return values;
}

/**
 * Reads a compressed file.
 *
 * data: the file, an ArrayBuffer or a Uint8Array (a Node Buffer is one). verify: whether to check the digest.
 * Throws a FormatError that says what is wrong: truncated, altered, of another program, newer, or of an unknown method.
 */
export function read(data, { verify = true } = {}) {
  // Never a view of Node's kind: its slices share their memory.
  const bytes = ArrayBuffer.isView(data) ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength) : new Uint8Array(data);
  const { text, tensors } = parseContainer(bytes);
  const header = parseHeader(text);
  if (verify) checkDigest(text, header, tensors);
  if (!Object.hasOwn(METHODS, header.method)) {
    refuse(`Made by the method "${header.method}", which this reader does not know. It reads: ${methods.join(", ")}.`);
  }
  const { words: encoded, ...state } = tensors;
  const [needed, reader] = METHODS[header.method];
  for (const name of needed) if (!(name in state)) refuse(`The file has no tensor ${name}, which ${header.method} needs.`);
  const shape = [header.num_embeddings, header.embedding_dim];
  const payload = Object.values(state).reduce((total, tensor) => total + tensor.bytes.length, 0);
  for (const side of shape) if (!(Number.isSafeInteger(side) && side > 0)) refuse(`The table's shape is ${shape.join(" x ")}.`);
  if (shape[1] > Math.max(MOST_COLUMNS, payload)) refuse(`Rows of ${shape[1]} columns are not read from ${payload} bytes.`);
  if (encoded && encoded.dtype !== "U8") refuse(`The words are of type ${encoded.dtype}, not U8.`);
  const words = encoded ? decodeWords(encoded.bytes) : null;
  if (words && words.length !== shape[0]) refuse(`The file has ${words.length} words for ${shape[0]} rows.`);
  const rebuild = reader(state, header.config, shape);
  return new CompressedTable(header, words, rebuild, payload, bytes.length);
}

// Digest: BLAKE2b, RFC 7693, 16 bytes, no key. 64-bit words are two of 32 bits, the lower one first ---------------------

const BLAKE_START = Uint32Array.of(
  ...[0xf3bcc908, 0x6a09e667, 0x84caa73b, 0xbb67ae85, 0xfe94f82b, 0x3c6ef372, 0x5f1d36f1, 0xa54ff53a],
  ...[0xade682d1, 0x510e527f, 0x2b3e6c1f, 0x9b05688c, 0xfb41bd6b, 0x1f83d9ab, 0x137e2179, 0x5be0cd19],
);
// The order of the message's words in each round, a hexadecimal digit a word.
const BLAKE_ROUNDS = (
  "0123456789abcdef ea489fd61c02b753 b8c052fdae367194 7931dcbe265a40f8 905724afe1bc683d 2c6a0b834d75fe19 " +
  "c51fed4a0763928b db7ec13950f4862a 6fe9b308c2d714a5 a2847615fb9e3cd0 0123456789abcdef ea489fd61c02b753"
)
  .split(" ")
  .map((round) => Array.from(round, (digit) => 2 * parseInt(digit, 16)));
const BLAKE_COLUMNS = [
  ...[[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]],
  ...[[0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14]],
].map((places) => places.map((place) => 2 * place));

/** Hexadecimal digest of bytes that follow each other, given as parts. */
function blake2b(parts) {
  const state = BLAKE_START.slice();
  state[0] ^= 0x01010000 ^ 16;
  const block = new Uint8Array(128);
  const message = new Uint32Array(block.buffer);
  let filled = 0;
  let total = 0;
  for (const part of parts) {
    for (let at = 0; at < part.length; ) {
      if (filled === 128) {
        total += 128;
        blakeBlock(state, message, total, false);
        filled = 0;
      }
      const taken = Math.min(128 - filled, part.length - at);
      block.set(part.subarray(at, at + taken), filled);
      filled += taken;
      at += taken;
    }
  }
  block.fill(0, filled);
  blakeBlock(state, message, total + filled, true);
  return Array.from(new Uint8Array(state.buffer, 0, 16), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const work = new Uint32Array(32);

function blakeBlock(state, message, total, last) {
  work.set(state);
  work.set(BLAKE_START, 16);
  work[24] ^= total;
  work[25] ^= Math.floor(total / 2 ** 32);
  if (last) {
    work[28] = ~work[28];
    work[29] = ~work[29];
  }
  for (const order of BLAKE_ROUNDS) {
    BLAKE_COLUMNS.forEach(([a, b, c, d], column) => {
      add(a, b);
      addWord(a, message, order[2 * column]);
      rotate(d, a, 32);
      add(c, d);
      rotate(b, c, 24);
      add(a, b);
      addWord(a, message, order[2 * column + 1]);
      rotate(d, a, 16);
      add(c, d);
      rotate(b, c, 63);
    });
  }
  for (let i = 0; i < 16; i++) state[i] ^= work[i] ^ work[i + 16];
}

function add(to, from) {
  addWord(to, work, from);
}

function addWord(to, words, from) {
  const low = work[to] + words[from];
  work[to] = low;
  work[to + 1] += words[from + 1] + (low > 0xffffffff ? 1 : 0);
}

/** work[to] = (work[to] ^ work[from]) rotated to the right. */
function rotate(to, from, bits) {
  const low = work[to] ^ work[from];
  const high = work[to + 1] ^ work[from + 1];
  if (bits === 32) {
    [work[to], work[to + 1]] = [high, low];
  } else if (bits === 63) {
    work[to] = (low << 1) | (high >>> 31);
    work[to + 1] = (high << 1) | (low >>> 31);
  } else {
    work[to] = (low >>> bits) | (high << (32 - bits));
    work[to + 1] = (high >>> bits) | (low << (32 - bits));
  }
}

// Recordings as CSV: one line per step, one column per channel, with or without a header.

/** {names, steps}. `channels`: how many columns there must be. Throws an Error that names the wrong line. */
export function parseRecording(text, channels) {
  const lines = text.split(/\r?\n/).map((line, place) => [line.trim(), place + 1]).filter(([line]) => line !== "");
  if (!lines.length) throw new Error("The file is empty. Expected one line per step, with one number per channel.");
  const separator = [";", "\t", ","].find((mark) => lines[0][0].includes(mark)) ?? /\s+/;
  const cells = (line) => line.split(separator).map((cell) => cell.trim());
  const first = cells(lines[0][0]);
  const isNamed = first.some((cell) => cell === "" || Number.isNaN(Number(cell)));
  const names = isNamed ? first : first.map((_, place) => `channel ${place + 1}`);
  const steps = lines.slice(isNamed ? 1 : 0).map(([line, number]) => {
    const values = cells(line);
    if (values.length !== channels) {
      throw new Error(`Line ${number} has ${values.length} values; expected ${channels}, one per channel.`);
    }
    return values.map((value) => {
      const parsed = Number(value);
      if (value === "" || !Number.isFinite(parsed)) throw new Error(`Line ${number}: '${value}' is not a number.`);
      return parsed;
    });
  });
  return { names, steps };
}

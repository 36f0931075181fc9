// The smallest harness: each check prints `ok NAME` or `failed NAME: why`, which a busted spec reads.

export function within(promise, what = "it", ms = 60000) {
  let timer;
  const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error(`${what} took longer than ${ms} ms`)), ms)));
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Runs the checks of a table, one after another. Gives the number of those that failed. */
export async function run(checks, ...args) {
  let failed = 0;
  for (const [name, check] of Object.entries(checks)) {
    try {
      await within(Promise.resolve().then(() => check(...args)), name);
      console.log(`ok ${name}`);
    } catch (error) {
      failed++;
      console.log(`failed ${name}: ${String(error?.stack ?? error).replace(/\n\s*/g, " | ").slice(0, 1500)}`);
    }
  }
  return failed;
}

export const hex = (bytes) => Buffer.from(bytes).toString("hex");
export const unhex = (text) => new Uint8Array(Buffer.from(text.replace(/\s/g, ""), "hex"));

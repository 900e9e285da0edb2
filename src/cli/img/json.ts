/** JSON as QEMU's tools print it: four spaces, and the members in the order of their hash table. */

const BUCKETS = 512

/** The bucket of a name in the table, by the hash of the Trivial Database (tdb). */
function bucketOf(name: string): number {
  const bytes = new TextEncoder().encode(name)
  let value = Math.imul(0x238f13af, bytes.length)
  bytes.forEach((byte, index) => {
    value = (value + (byte << ((index * 5) % 24))) | 0
  })
  return ((Math.imul(1103515243, value) + 12345) >>> 0) % BUCKETS
}

/** An object's members in that order; those whose value is undefined are left out, and of two in one bucket the later comes first. */
export function ordered(object: object): [string, unknown][] {
  return Object.entries(object)
    .filter(([, value]) => value !== undefined)
    .reverse()
    .map((entry) => ({ entry, bucket: bucketOf(entry[0]) }))
    .sort((a, b) => a.bucket - b.bucket)
    .map(({ entry }) => entry)
}

/** The text of a value, without a newline at its end. */
export function prettyJson(value: unknown, indent = ''): string {
  if (typeof value !== 'object' || value === null) return asciiOnly(JSON.stringify(value))
  const inner = `${indent}    `
  const [open, close] = Array.isArray(value) ? '[]' : '{}'
  const members = Array.isArray(value)
    ? value.map((each) => prettyJson(each, inner))
    : ordered(value).map(([key, each]) => `${asciiOnly(JSON.stringify(key))}: ${prettyJson(each, inner)}`)
  if (members.length === 0) return `${open}\n${indent}${close}`
  return `${open}\n${members.map((each) => inner + each).join(',\n')}\n${indent}${close}`
}

/** Whatever is not ASCII is escaped. */
function asciiOnly(text: string): string {
  return text.replace(
    /[\x7f-\uffff]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).toUpperCase().padStart(4, '0')}`,
  )
}

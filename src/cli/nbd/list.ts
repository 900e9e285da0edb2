/** What `-L` prints of another server's exports. */
import type { NbdListed } from '../../block/protocols/nbd/negotiate.ts'

/** Transmission flags from bit 1 on. */
const FLAG_NAMES = [
  'readonly',
  'flush',
  'fua',
  'rotational',
  'trim',
  'zeroes',
  'df',
  'multi',
  'resize',
  'cache',
  'fast-zero',
]

/** One export, line by line. */
export function describeListed(listed: NbdListed): string {
  const lines = [` export: '${listed.name}'`]
  if (listed.description) lines.push(`  description: ${listed.description}`)
  const { details } = listed
  if (details !== undefined) {
    const { size, flags, sizes, contexts } = details
    const names = FLAG_NAMES.filter((_, bit) => flags & (2 << bit))
    lines.push(`  size:  ${size}`, `  flags: 0x${flags.toString(16)} ( ${names.map((name) => `${name} `).join('')})`)
    if (sizes !== undefined)
      lines.push(`  min block: ${sizes.minimum}`, `  opt block: ${sizes.preferred}`, `  max block: ${sizes.maximum}`)
    if (contexts.length > 0)
      lines.push(`  available meta contexts: ${contexts.length}`, ...contexts.map((name) => `   ${name}`))
  }
  return `${lines.join('\n')}\n`
}

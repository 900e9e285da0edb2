/** What the host pays for one request, device by device: `npm run bench -- device [NAME...]`. */
import { run as ide } from './device/ide.ts'
import { run as lsi } from './device/lsi.ts'
import { run as virtio } from './device/virtio.ts'

/** A device's part of this benchmark, by the name that chooses it. */
const sections: readonly (readonly [name: string, run: () => Promise<void>])[] = [
  ['virtio', virtio],
  ['ide', ide],
  ['lsi', lsi],
]

/** Runs the sections that `args` names, or all; exit status 2 for a name that there is not. */
export async function run(args: readonly string[]): Promise<number> {
  const unknown = args.filter((arg) => !sections.some(([name]) => name === arg))
  if (unknown.length > 0) {
    console.error(`There is no ${unknown.join(', ')}; there is ${sections.map(([name]) => name).join(', ')}`)
    return 2
  }
  for (const [name, section] of sections) {
    if (args.length > 0 && !args.includes(name)) continue
    console.log(`${name}\n`)
    await section()
    console.log()
  }
  return 0
}

/** The commands that tell about the open image, and the one that changes its size. */
import { messageOf } from '../../block/error.ts'
import { ImageDevice } from '../../block/mover.ts'
import { describe, specificLines } from '../img/info.ts'
import { strerror } from '../img/reasons.ts'
import { changeSize } from '../img/resize.ts'
import { type Command, misused, takeApart } from './command.ts'
import { size } from './requests.ts'
import type { Session } from './session.ts'
import { sizeText } from './values.ts'

export const length: Command = {
  name: 'length',
  short: 'l',
  least: 0,
  most: 0,
  usage: '',
  summary: 'gets the length of the current file',
  run(session) {
    session.out(`${sizeText(Math.ceil(session.device.size / 512) * 512)}\n`)
    return true
  },
}

/** Where the machine's state begins in the L1 table's span, as QEMU tells it: the end of the disk, a whole table up. */
function stateOffset(session: Session): number {
  const { driver } = session.image!.opened.device
  const image = driver instanceof ImageDevice ? driver.image : undefined
  const offset = image === undefined ? undefined : Reflect.get(image, 'machineStateOffset')
  return typeof offset === 'number' ? offset : 0
}

export const info: Command = {
  name: 'info',
  short: 'i',
  least: 0,
  most: 0,
  usage: '',
  summary: 'prints information about the current file',
  async run(session) {
    const { opened } = session.image!
    session.out(`format name: ${opened.format}\n`)
    if (opened.format.startsWith('null-')) {
      session.out(`format name: ${opened.format}\n`)
      return false
    }
    const found = await describe(opened)
    session.out(`cluster size: ${sizeText(found['cluster-size'] ?? 0)}\n`)
    session.out(`vm state offset: ${sizeText(stateOffset(session))}\n`)
    if (found['format-specific'] !== undefined) session.out(`${specificLines(found['format-specific']).join('\n')}\n`)
    return true
  },
}

/** Length of the run at `at`, and whether this layer has it. */
async function allocation(session: Session, at: number, most: number): Promise<{ length: number; here: boolean }> {
  const { device } = session
  if (session.image!.opened.format === 'raw') return { length: most, here: true }
  const extent = await device.status(at, most)
  return { length: extent.length, here: extent.kind !== 'hole' }
}

export const alloc: Command = {
  name: 'alloc',
  short: 'a',
  least: 1,
  most: 2,
  usage: 'offset [count]',
  summary: 'checks if offset is allocated in the file',
  async run(session, words) {
    const start = size(words[1]!)
    let count = words[2] === undefined ? 512 : size(words[2])
    let sum = 0
    const end = Math.min(start + count, session.device.size)
    try {
      for (let at = start; at < end; ) {
        const { length, here } = await allocation(session, at, end - at)
        if (here) sum += length
        at += length
      }
    } catch (error) {
      session.out(`is_allocated failed: ${strerror(error)}\n`)
      return false
    }
    count = Math.max(0, end - start)
    session.out(`${sum}/${count} bytes allocated at offset ${sizeText(start)}\n`)
    return true
  },
}

export const map: Command = {
  name: 'map',
  least: 0,
  most: 0,
  usage: ' ',
  summary: 'prints the allocated areas of a file',
  async run(session) {
    const { size: total } = session.device
    if (total === 0) return true
    let at = 0
    let run = await allocation(session, 0, total)
    while (at < total) {
      const next =
        at + run.length < total ? await allocation(session, at + run.length, total - at - run.length) : undefined
      if (next !== undefined && next.here === run.here) {
        run = { ...run, length: run.length + next.length }
        continue
      }
      const what = run.here ? '    allocated' : 'not allocated'
      session.out(
        `${sizeText(run.length)} (0x${run.length.toString(16)}) bytes ${what} at offset ${sizeText(at)} (0x${at.toString(16)})\n`,
      )
      at += run.length
      if (next !== undefined) run = next
    }
    return true
  },
}

export const truncate: Command = {
  name: 'truncate',
  short: 't',
  least: 1,
  most: 3,
  writes: true,
  usage: '[-m prealloc_mode] off',
  summary: 'truncates the current file at the given offset',
  async run(session, words) {
    const line = takeApart(session, truncate, words, 'm:')
    const mode = line.value('m') ?? 'off'
    if (!['off', 'metadata', 'falloc', 'full'].includes(mode))
      return session.complain(`Invalid preallocation mode '${mode}'`)
    if (line.operands.length < 1) throw misused(truncate)
    const wanted = size(line.operands[0]!)
    try {
      const { opened } = session.image!
      if (mode !== 'off' && wanted < session.device.size)
        return session.complain(
          opened.format === 'raw'
            ? 'Cannot use preallocation for shrinking files'
            : "Preallocation can't be used for shrinking an image",
        )
      if (session.device === opened.device) await changeSize(opened, wanted, mode)
      else await session.device.resize(wanted)
      return true
    } catch (error) {
      return session.complain(messageOf(error))
    }
  },
}

/** Runs a workload, cuts the power at many moments in many ways, and looks at what is left. */
import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import path from 'node:path'
import type { BlockDevice } from '../../src/block/device.ts'
import { bytesVec } from '../../src/block/iovec.ts'
import { Memory } from '../../src/block/protocols/memory.ts'
import { type Random, random as seedRandom } from '../random.ts'
import { type DiskModel, judge } from './model.ts'
import { type CrashState, type Recorder, Replay } from './recorder.ts'

/** What the explorer must know of a format. */
export interface Subject {
  readonly name: string
  /** Opens what a crash left, for writing; mends what the format says is to be mended at open. */
  open(medium: Memory, ...beside: Memory[]): Promise<BlockDevice>
  /** Checks an image that is not open: what is corrupt, a sentence each; leaks are repaired. */
  check(medium: Memory): Promise<string[]>
  /** Qemu's name for the format; its check joins in on a sample. */
  readonly qemu?: string
  /** Whether the format says that this state is to be repaired before use. */
  repairable?(bytes: Uint8Array): boolean
  /** The raw backing file that the image names. */
  readonly backing?: { readonly name: string; readonly bytes: Uint8Array }
  /** The names of the media beside the image's own, as the image has them. */
  readonly beside?: readonly string[]
  /** What else must hold of an opened crash state: a sentence of what does not. */
  inspect?(disk: BlockDevice, now: number): Promise<string | undefined>
}

/** A recorded workload. */
export interface Recording {
  readonly recorder: Recorder
  /** Media beside the image's own, which count moments with it. */
  readonly beside?: readonly Recorder[]
  readonly model: DiskModel
  readonly subject: Subject
  /** When the image had been closed: from then on there is nothing to repair. */
  readonly closed: number
}

export interface Exploration {
  /** Crash states that were looked at. */
  states: number
  /** How many of them qemu-img looked at too. */
  qemu: number
  /** The first thing that was wrong. */
  failure?: string
}

/** How far to look. */
export interface Effort {
  readonly states: number
  readonly seed: number
  /** Every how many states qemu-img looks too; 0 for never. */
  readonly qemuEvery?: number
  /** Where qemu-img finds the state. */
  readonly file?: string
}

/** At most this many changes in flight are tried in every combination. */
const EXHAUSTIVE = 4

/** Looks at about `states` crash states of a recording; stops at the first that is wrong. */
export async function explore(recording: Recording, effort: Effort): Promise<Exploration> {
  const { recorder, subject, model } = recording
  if (effort.file !== undefined && subject.backing !== undefined) {
    writeFileSync(path.join(path.dirname(effort.file), subject.backing.name), subject.backing.bytes)
  }
  const random = seedRandom(effort.seed)
  const replays = [recorder, ...(recording.beside ?? [])].map((each) => new Replay(each))
  const found: Exploration = { states: 0, qemu: 0 }
  const moments = recorder.now + 1
  const share = effort.states / moments
  let due = 0
  for (let now = 0; now < moments && found.failure === undefined; now++) {
    const pending = replays.reduce((sum, replay) => sum + replay.to(now), 0)
    due += share
    if (now === moments - 1) due = Math.max(due, 2 ** EXHAUSTIVE)
    const few = pending <= EXHAUSTIVE && 2 ** pending <= due
    let allowed: readonly Set<number>[] | undefined
    const states = few ? whole(replays) : samples(replays, random, Math.floor(due), pending)
    for (const state of states) {
      due--
      const withQemu = effort.qemuEvery !== undefined && effort.qemuEvery > 0 && found.states % effort.qemuEvery === 0
      found.states++
      allowed ??= model.allowed(now)
      const wrong = await look(recording, state, now, allowed, withQemu ? effort.file : undefined, random)
      if (withQemu) found.qemu++
      if (wrong === undefined) continue
      found.failure = `${recording.subject.name}: after a power cut at moment ${now} of ${moments}: ${wrong}\n${state.map(({ story }) => story).join('\nbeside:\n')}`
      break
    }
  }
  return found
}

function* samples(
  replays: readonly Replay[],
  random: Random,
  count: number,
  pending: number,
): Generator<readonly CrashState[]> {
  for (let each = 0; each < (pending === 0 ? Math.min(count, 1) : count); each++)
    yield replays.map((replay) => replay.sample(random))
}

/** Every combination of whole changes on all media. */
function* whole([first, ...rest]: readonly Replay[]): Generator<readonly CrashState[]> {
  if (first === undefined) yield []
  else for (const state of first.whole()) for (const others of whole(rest)) yield [state, ...others]
}

async function look(
  { subject, closed }: Recording,
  [state, ...beside]: readonly CrashState[],
  now: number,
  allowed: readonly Set<number>[],
  qemuFile: string | undefined,
  random: Random,
): Promise<string | undefined> {
  const { bytes } = state!
  try {
    if (qemuFile !== undefined && subject.qemu !== undefined) {
      writeFileSync(qemuFile, bytes)
      beside.forEach((other, index) => {
        writeFileSync(path.join(path.dirname(qemuFile), subject.beside![index]!), other.bytes)
      })
      const repair = subject.repairable?.(bytes) ? ['-r', 'all'] : []
      const { status, stdout, stderr } = spawnSync('qemu-img', ['check', '-f', subject.qemu, ...repair, qemuFile], {
        encoding: 'utf8',
        cwd: path.dirname(qemuFile), // where qemu looks for a data file
      })
      if (status !== 0 && status !== 3) return `qemu-img check says ${status}: ${stdout}${stderr}`
    }
    if (now >= closed && subject.repairable?.(bytes)) return 'it was closed, and yet is to be repaired'
    const medium = Memory.from(bytes)
    const disk = await subject.open(medium, ...beside.map((other) => Memory.from(other.bytes)))
    const content = new Uint8Array(disk.size)
    await disk.read(0, bytesVec(content))
    const wrong = judge(content, allowed) ?? (await subject.inspect?.(disk, now))
    if (wrong !== undefined) return wrong
    if (random.below(4) === 0) {
      // The image is of use: it takes writes, and is whole after them.
      for (let each = 0; each < 3; each++) {
        const at = 512 * random.below(disk.size / 512)
        const length = Math.min(disk.size - at, 512 * random.between(1, 40))
        await disk.write(at, bytesVec(content.subarray(0, length)))
      }
    }
    await disk.close()
    const damage = await subject.check(medium)
    if (damage.length > 0) return `check says: ${damage.slice(0, 5).join('; ')}`
  } catch (error) {
    return error instanceof Error ? (error.stack ?? error.message) : String(error)
  }
  return undefined
}

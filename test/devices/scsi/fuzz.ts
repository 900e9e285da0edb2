/** Random commands: whatever an initiator sends, it gets a status, and the target neither throws, hangs nor takes much memory. */
import { asDevice } from '../../../src/block/device.ts'
import { Disk } from '../../../src/block/disk.ts'
import { bytesVec } from '../../../src/block/iovec.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { type Attribute, CdUnit, DiskUnit, ScsiTarget, type Task } from '../../../src/devices/scsi/index.ts'
import { Faulty } from '../../conformance/faulty.ts'
import type { Random } from '../../random.ts'
import { Initiator, turn } from './initiator.ts'

const ATTRIBUTES: readonly Attribute[] = [
  ...new Array<Attribute>(40).fill('simple'),
  'ordered',
  'head',
  'untagged',
  'aca',
]
/** Room of an initiator's buffer, bytes. */
const ROOM = 1 << 18

/** The usage data of every command of a unit, as the unit itself reports it [SPC-4] 6.34. */
async function usages(initiator: Initiator, lun: number): Promise<Uint8Array[]> {
  const { data, view } = await initiator.send('a3 0c 00 00 00 00 00 01 00 00', { lun })
  const found: Uint8Array[] = []
  for (let at = 4; at < data.length; at += 8) {
    const one = Uint8Array.of(0xa3, 0x0c, 3, data[at]!, data[at + 2]!, data[at + 3]!, 0, 0, 0, 255, 0, 0)
    const usage = (await initiator.send(one, { lun })).data.subarray(4, 4 + view.getUint16(at + 6))
    // The action in the usage data is a value, not a mask: of byte 1 all else may vary
    found.push(Uint8Array.from(usage))
  }
  return found
}

/** A CDB: nonsense now and then, else bits that the command looks at, with small numbers more often than not. */
function randomCdb(random: Random, commands: readonly Uint8Array[]): Uint8Array {
  if (random.below(10) === 0) return random.bytes(random.pick([6, 10, 12, 16, 32]))
  const usage = random.pick(commands)
  const cdb = usage.slice()
  const several = [0x48, 0x5e, 0x5f, 0x9e, 0xa3].includes(cdb[0]!)
  for (let i = 1; i < cdb.length; i++) {
    const kind = random.below(8)
    const bits = kind === 0 ? random.below(256) : kind === 1 ? random.below(16) : 0
    if (i === 1 && several) cdb[1] = (usage[1]! & 0x1f) | (bits & 0xe0)
    else cdb[i] = usage[i]! & bits
  }
  if (random.below(30) === 0) cdb[random.below(cdb.length)] = random.below(256)
  return cdb
}

/** Drives a task as some adapter would, with data of the wrong length as often as not. */
async function drive(task: Task, random: Random): Promise<void> {
  const memory = new Uint8Array(random.pick([0, 1, 17, 512, 4096, 65536, ROOM]))
  if (random.below(2) === 0) memory.set(random.bytes(Math.min(memory.length, 64)))
  for (let steps = 0; steps < 200; steps++) {
    const phase = await task.next()
    if (phase === 'status' || phase === 'aborted') return
    switch (random.below(4)) {
      case 0:
        await task.moveAll(bytesVec(memory))
        break
      case 1:
        await task.prepare()
        await task.move(bytesVec(memory))
        break
      case 2:
        await task.move(bytesVec(memory.subarray(0, random.below(memory.length + 1))))
        break
      default:
        if (random.below(4) === 0) await task.abort(random.below(2) === 0)
        else if (random.below(2) === 0) task.cut()
    }
  }
  task.cut()
  await task.next()
}

/** Sends `count` commands to a target with a disk and a CD-ROM, several at once; throws if one does not end. */
export async function fuzzTarget(random: Random, count: number): Promise<void> {
  const faulty = new Faulty(asDevice(new Memory(256 << 10)))
  const disk = new DiskUnit(new Disk(asDevice(faulty), { werror: 'report' }), { removable: true })
  const cd = new CdUnit(new Disk(asDevice(new Memory(256 << 10, { readOnly: true }))))
  for (const unit of [disk, cd]) unit.turn = turn
  const target = new ScsiTarget().attach(0, disk).attach(1, cd)
  const initiator = new Initiator(target)
  for (const lun of [0, 1]) await initiator.ready(lun)
  const commands = [await usages(initiator, 0), await usages(initiator, 1)]
  commands.push(commands[0]!)
  for (let sent = 0; sent < count; ) {
    if (random.below(20) === 0)
      faulty.fail(random.pick(['read', 'write', 'flush', 'zero']), random.pick(['EIO', 'ENOSPC']), 1 + random.below(3))
    const batch = Array.from({ length: 1 + random.below(6) }, () => {
      const lun = random.pick([0, 0, 0, 0, 0, 0, 1, 1, 1, 2])
      const task = target.submit({
        initiator: random.below(3),
        lun,
        cdb: randomCdb(random, commands[lun]!),
        attribute: random.pick(ATTRIBUTES),
        tag: random.below(64),
        autosense: random.below(4) > 0,
      })
      return drive(task, random).then(() => task)
    })
    sent += batch.length
    const ends = Promise.all(batch)
    let ended = false
    void ends.then(() => {
      ended = true
    })
    // A task may wait behind another's sense data; REQUEST SENSE of every initiator port frees it, as a driver would
    for (let turns = 0; !ended; turns++) {
      if (turns > 2000) throw new Error(`a task did not end: ${describe(target)}`)
      await turn()
      if (turns > 3) requestSense(target)
    }
    for (const task of await ends) check(task)
    if (random.below(40) === 0) await calm(target, disk)
    if (random.below(40) === 0) await target.manage(random.pick(functions(random)))
  }
  for (const unit of [disk, cd]) if (unit.tasks.length > 0) throw new Error(`tasks are left: ${describe(target)}`)
}

function functions(random: Random) {
  const where = { initiator: random.below(3), lun: random.below(2) }
  return [
    { ...where, function: 'abort task', tag: random.below(8) },
    { ...where, function: 'abort task set' },
    { ...where, function: 'clear task set' },
    { ...where, function: 'logical unit reset' },
    { ...where, function: 'target reset' },
    { ...where, function: 'i_t nexus reset' },
  ] as const
}

/** Takes away what keeps most commands from running: reservations, a stopped or protected medium, a failed SANITIZE. */
async function calm(target: ScsiTarget, disk: DiskUnit): Promise<void> {
  await target.reset()
  disk.reservations.restore([0, 0, -1, -1])
  disk.failure = undefined
  disk.moveTray(false)
  while (disk.occupation !== undefined) await turn()
}

function requestSense(target: ScsiTarget): void {
  for (const initiator of [0, 1, 2]) {
    for (const lun of [0, 1]) {
      const cdb = Uint8Array.of(3, 0, 0, 0, 18, 0)
      const task = target.submit({ initiator, lun, cdb, attribute: 'head', tag: 1000 + lun, autosense: true })
      task.cut()
    }
  }
}

const STATUSES = [0x00, 0x02, 0x04, 0x18, 0x28, 0x40]

function check(task: Task): void {
  const { phase, status, sense, transferred, length } = task
  if (phase === 'aborted') return
  const whole = phase === 'status' && STATUSES.includes(status) && (status === 2) === sense.length > 0
  // 04/44/00 would be a mistake of ours that was caught
  const ours = sense.length > 0 && (sense[0] === 0x70 ? sense[12] === 0x44 : sense[2] === 0x44)
  if (!whole || ours || transferred > length) {
    throw new Error(
      `CDB ${Buffer.from(task.cdb).toString('hex')} ended with ${phase} ${status} ${Buffer.from(sense).toString('hex')}`,
    )
  }
}

function describe(target: ScsiTarget): string {
  return target.luns
    .flatMap((lun) => target.unit(lun)!.tasks.map((task) => `${Buffer.from(task.cdb).toString('hex')} ${task.phase}`))
    .join(', ')
}

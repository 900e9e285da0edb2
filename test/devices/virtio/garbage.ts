/** Drivers that follow no rule: random bytes in rings, tables, registers. */
import { type Random, random as seededBy } from '../../random.ts'
import type { Pending, Slow } from '../slow.ts'
import { Driver, FACES, type Request, T } from './driver.ts'

/** Where the garbage finds tables and buffers that are RAM. */
const HIGH = 0x180000
const TYPES = [T.IN, T.IN, T.OUT, T.OUT, T.FLUSH, T.GET_ID, T.GET_LIFETIME, T.DISCARD, T.WRITE_ZEROES, T.SECURE_ERASE]

/** What happened to a wrecked machine. */
export interface Wreckage {
  /** Requests by the status that they ended with. */
  statuses: Map<number, number>
  /** Faults by reason. */
  faults: Map<string, number>
}

/** One machine, wrecked for `rounds` rounds. Throws if the device does, or if it has more under way than its queues hold. */
export async function wreck(seed: number, rounds: number, slow: Slow): Promise<Wreckage> {
  const random = seededBy(seed)
  const driver = new Driver({
    ...random.pick(FACES),
    on: slow,
    ramSize: 2 << 20,
    device: {
      queueSize: 16,
      numQueues: 2,
      secureErase: true,
      inOrder: random.below(3) === 0,
      lifetime: { preEolInfo: 1, estimateA: 1, estimateB: 1 },
    },
    refuse: Array.from({ length: random.below(3) }, () => random.below(32)),
  })
  const wreckage: Wreckage = { statuses: new Map(), faults: new Map() }
  for (let round = 0; round < rounds; round++) {
    const action = random.below(16)
    if (action < 9) ask(driver, random)
    else if (action === 9) spoilRing(driver, random)
    else if (action === 10) pokeRegisters(driver, random)
    else if (action < 14) await answer(slow.pending, random)
    else if (action === 14) driver.bus.clock.turn()
    else if (random.below(16) === 0) begin(driver)
    for (let i = 0; i < 2; i++) driver.slot.device.device.notify(i)
    if (slow.pending.length > 64) throw new Error(`seed ${seed}: ${slow.pending.length} requests under way`)
    const { fault } = driver
    if (fault !== undefined) {
      const reason = fault.replace(/^queue \d+:? ?/, '')
      wreckage.faults.set(reason, (wreckage.faults.get(reason) ?? 0) + 1)
      if (random.below(4) > 0) begin(driver)
      else recover(driver)
    } else if (random.below(64) === 0) recover(driver)
    for (const queue of [0, 1]) {
      for (const { id } of driver.used(queue)) {
        const status = driver.bus.memory.ram[asked.get(driver)?.get(id) ?? 0]!
        wreckage.statuses.set(status, (wreckage.statuses.get(status) ?? 0) + 1)
      }
    }
  }
  await slow.settle()
  return wreckage
}

/** Status bytes of the buffers that were made available, by id. */
const asked = new WeakMap<Driver, Map<number, number>>()

/** Makes a request available that is right, or nearly so. */
function ask(driver: Driver, random: Random): void {
  const type = random.below(16) === 0 ? random.below(32) : random.pick(TYPES)
  const length = random.pick([512, 512, 1024, 4096, random.below(1024)])
  const sector = random.pick([0, random.below(2048), random.below(2048), random.below(4096)])
  const wants: { output?: Uint8Array; input?: number } = {}
  if (type === T.OUT) wants.output = new Uint8Array(length).fill(length & 0xff)
  else if (type === T.DISCARD || type === T.WRITE_ZEROES || type === T.SECURE_ERASE) {
    wants.output = new Uint8Array(16 * (1 + random.below(3)))
    wants.output[0] = random.below(256)
    wants.output[8] = random.below(256)
    wants.output[12] = random.below(3)
  } else wants.input = type === T.GET_ID ? 20 : length
  let request: Request
  try {
    request = driver.build(type, sector, wants)
    if (random.below(4) === 0) request.elements[0]!.length = random.below(17)
    if (random.below(4) === 0) split(request, random)
    const table = random.below(3) === 0 ? driver.alloc(16 * request.elements.length) : undefined
    const queue = random.below(2)
    request.id = driver.queues[queue]!.add(request.elements, table)
    if (table !== undefined && random.below(6) === 0) mutate(driver, table, 16 * request.elements.length, random)
    if (random.below(6) === 0) mutate(driver, driver.queues[queue]!.descriptors, 256, random)
  } catch {
    // The test's own driver is out of descriptors or RAM.
    begin(driver)
    return
  }
  const byId = asked.get(driver) ?? new Map<number, number>()
  asked.set(driver, byId.set(request.id, request.statusAt))
}

/** Cuts an element in two. */
function split(request: Request, random: Random): void {
  const index = random.below(request.elements.length)
  const element = request.elements[index]!
  const first = random.below(element.length + 1)
  request.elements.splice(
    index,
    1,
    { ...element, length: first },
    { ...element, at: element.at + first, length: element.length - first },
  )
}

/** Changes one field somewhere in a table of descriptors. */
function mutate(driver: Driver, at: number, length: number, random: Random): void {
  const { data } = driver.bus.memory
  const entry = at + 16 * random.below(length / 16)
  const field = random.pick([0, 4, 8, 12, 14])
  if (field < 12) data.setUint32(entry + field, value(driver, random), true)
  else data.setUint16(entry + field, random.pick([random.below(16), random.below(65536), 0x8080, 0x80, 0x8000]), true)
}

function value(driver: Driver, random: Random): number {
  return random.pick([
    random.below(16),
    random.below(1 << 16),
    random.below(2 ** 32),
    HIGH + 16 * random.below(256),
    512 * random.below(9),
    driver.bus.memory.ram.length - random.below(64),
  ])
}

function spoilRing(driver: Driver, random: Random): void {
  const { data, ram } = driver.bus.memory
  const queue = random.pick(driver.queues)
  switch (random.below(4)) {
    case 0:
      data.setUint16(
        queue.driver + 2,
        random.pick([random.below(40), data.getUint16(queue.driver + 2, true) + 1]),
        true,
      )
      break
    case 1:
      data.setUint16(queue.driver + 4 + 2 * random.below(16), random.below(18), true)
      break
    case 2:
      for (let i = 0; i < 4; i++) ram[queue.descriptors + random.below(256)] = random.below(256)
      break
    case 3:
      for (let i = 0; i < 8; i++) ram[HIGH + random.below(4096)] = random.below(256)
  }
}

function pokeRegisters(driver: Driver, random: Random): void {
  const window = random.pick(driver.slot.device.windows)
  const width = random.pick([1, 2, 4])
  const offset = random.below(256)
  if (random.below(2) === 0) window.read(offset, width)
  else window.write(offset, width, value(driver, random) % 2 ** (8 * width))
}

async function answer(pending: readonly Pending[], random: Random): Promise<void> {
  if (pending.length > 0) {
    const one = random.pick(pending)
    if (random.below(8) === 0) one.fail(new Error('the host failed'))
    else one.complete()
  }
  await new Promise((resolve) => setImmediate(resolve))
}

/** A driver by the book starts over. */
function begin(driver: Driver): void {
  driver.free()
  driver.initialize()
}

/** Whatever was done to it, a bus reset and a driver by the book find a working device. */
function recover(driver: Driver): void {
  const { device } = driver.slot
  device.reset()
  for (const { index } of device.config.bars) device.config.setBar(index, driver.slot.base(index))
  device.config.write(0x04, 2, 0x0007)
  begin(driver)
}

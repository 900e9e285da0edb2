/** Drivers that follow no rule: random bytes in rings, tables, registers. */
import type { Pending, Slow } from '../slow.ts'
import { Driver, FACES } from './driver.ts'

/** Numbers that repeat for a seed (xorshift). */
export class Random {
  #state: number

  constructor(seed: number) {
    this.#state = seed | 1
  }

  /** From 0 to `below` - 1. */
  next(below: number): number {
    this.#state ^= this.#state << 13
    this.#state ^= this.#state >>> 17
    this.#state ^= this.#state << 5
    return (this.#state >>> 0) % below
  }

  pick<T>(list: readonly T[]): T {
    return list[this.next(list.length)]!
  }
}

const HIGH = 0x180000

/** One machine, wrecked for `rounds` rounds. Throws if the device does, or if it has more under way than its queues hold. */
export async function wreck(seed: number, rounds: number, slow: Slow): Promise<void> {
  const random = new Random(seed)
  const face = random.pick(FACES)
  const driver = new Driver({
    ...face,
    on: slow,
    ramSize: 2 << 20,
    device: { queueSize: 16, numQueues: 2, secureErase: true, inOrder: random.next(3) === 0 },
    refuse: Array.from({ length: random.next(3) }, () => random.next(32)),
  })
  const { memory } = driver.bus
  const word = () =>
    random.pick([
      () => random.next(1 << 16),
      () => random.next(16),
      () => HIGH + 16 * random.next(256),
      () => random.next(2 ** 32),
      () => 512 * random.next(9),
      () => memory.ram.length - random.next(64),
    ])()
  for (let round = 0; round < rounds; round++) {
    const queue = random.pick(driver.queues)
    switch (random.next(10)) {
      case 0:
      case 1:
      case 2:
        spoilDescriptors(driver, queue.descriptors, word, random)
        break
      case 3:
        memory.data.setUint16(
          queue.driver + 2,
          random.pick([random.next(40), memory.data.getUint16(queue.driver + 2, true) + 1]),
          true,
        )
        for (let i = 0; i < 16; i++) memory.data.setUint16(queue.driver + 4 + 2 * i, random.next(18), true)
        break
      case 4:
        for (let i = 0; i < 4; i++) memory.data.setUint32(HIGH + 16 * random.next(256), word(), true)
        for (let i = 0; i < 8; i++) memory.data.setUint8(HIGH + 16 * random.next(256), random.next(16))
        break
      case 5:
        driver.slot.device.windows[random.next(driver.slot.device.windows.length)]!.write(
          random.next(256),
          random.pick([1, 2, 4]),
          word() >>> 0,
        )
        break
      case 6:
        driver.slot.device.windows[random.next(driver.slot.device.windows.length)]!.read(
          random.next(256),
          random.pick([1, 2, 4]),
        )
        break
      case 7:
        await answer(slow.pending, random)
        break
      case 8:
        if (driver.needsReset || random.next(8) === 0) driver.initialize()
        break
      case 9:
        driver.bus.clock.turn()
    }
    for (let i = 0; i < 2; i++) driver.slot.device.device.notify(i)
    if (slow.pending.length > 64) throw new Error(`seed ${seed}: ${slow.pending.length} requests under way`)
    if (round % 64 === 63) recover(driver)
  }
  await slow.settle()
}

function spoilDescriptors(driver: Driver, at: number, word: () => number, random: Random): void {
  const { data } = driver.bus.memory
  const table = random.next(4) === 0 ? HIGH : at
  for (let i = 0; i < 16; i++) {
    const entry = table + 16 * i
    if (random.next(2) === 0) continue
    data.setUint32(entry, random.next(8) === 0 ? word() : HIGH + 16 * random.next(256), true)
    data.setUint32(entry + 4, random.next(32) === 0 ? word() : 0, true)
    data.setUint32(entry + 8, random.pick([16, 1, 512, 513, 48, 0, word()]), true)
    data.setUint16(entry + 12, random.next(driver.ring === 'packed' ? 16 : 8), true)
    data.setUint16(
      entry + 14,
      random.pick([random.next(18), 0x80 | random.next(8), 0x8000 | random.next(8), word() & 0xffff]),
      true,
    )
  }
}

async function answer(pending: readonly Pending[], random: Random): Promise<void> {
  if (pending.length > 0) {
    const one = random.pick(pending)
    if (random.next(8) === 0) one.fail(new Error('the host failed'))
    else one.complete()
  }
  await new Promise((resolve) => setImmediate(resolve))
}

/** Whatever was done to it, a bus reset and a driver by the book find a working device. */
function recover(driver: Driver): void {
  const { device } = driver.slot
  device.reset()
  for (const { index } of device.config.bars) device.config.setBar(index, driver.slot.base(index))
  device.config.write(0x04, 2, 0x0007)
  driver.initialize()
}

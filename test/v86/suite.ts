/** The suite that every supported v86 passes: devices in it, driven by a guest of a few instructions. */
import { afterEach, describe, expect, test } from 'vitest'
import type { Bus, PciDevice, Saved } from '../../src/devices/machine.ts'
import { PciConfig } from '../../src/devices/pci.ts'
import { type Machine, machineOf } from '../../src/v86/machine.ts'
import { type Bare, bare, Program, type V86Package } from './bare.ts'

const SLOT = 4
const BDF = SLOT << 3
const IO = 0x6000
const MEM = 0xfd000000
/** Slot 4, pin A: PIRQ (4 - 1 + 0) & 3. */
const PIRQ = 0x60 + 3
const LINE = 11
const COUNTER = 0x9000
const LOOP = 0x9010

/**
 * Registers: 0 identity, 4 asserts the interrupt, 8 deasserts it, 0Ch counts writes, 10h throws, 18h asserts when read and counts that.
 * The same in both windows.
 */
class TestDevice implements PciDevice {
  readonly name = 'test device'
  readonly config = new PciConfig({
    vendorId: 0x1234,
    deviceId: 0x5678,
    classCode: 0xff0000,
    interruptPin: 1,
    bars: [
      { index: 0, space: 'io', size: 32 },
      { index: 1, space: 'mem', size: 4096 },
    ],
  })
  readonly writes: [space: string, offset: number, width: number, value: number][] = []
  readonly bus: Bus
  readonly windows = (['io', 'mem'] as const).map((space, bar) => ({
    space,
    bar,
    size: space === 'io' ? 32 : 4096,
    read: (offset: number, width: number) => this.read(offset, width),
    write: (offset: number, width: number, value: number) => {
      this.writes.push([space, offset, width, value])
      if (offset === 4) this.bus.intx(true)
      if (offset === 8) this.bus.intx(false)
      if (offset === 0x10) throw new Error('a mistake')
    },
  }))
  resets = 0
  reads = 0
  wait: Promise<void> | undefined
  state: Saved = null

  constructor(bus: Bus) {
    this.bus = bus
  }

  read(offset: number, width: number): number {
    if (offset === 0x10) throw new Error('a mistake')
    if (offset === 0x0c) return this.writes.length
    if (offset === 0x18) {
      this.bus.intx(true)
      return ++this.reads
    }
    const identity = [0xef, 0xbe, 0xad, 0xde]
    let value = 0
    for (let i = width - 1; i >= 0; i--) value = value * 256 + (identity[offset + i] ?? 0)
    return value
  }

  reset(): void | Promise<void> {
    this.resets++
    this.config.reset()
    return this.wait
  }

  drain(): void | Promise<void> {
    return this.wait
  }

  save(): Saved {
    return { config: this.config.save(), state: this.state }
  }

  restore(saved: Saved): void {
    const { config, state } = saved as { config: Uint8Array; state: Saved }
    this.config.restore(config)
    this.state = state
  }
}

/** What firmware does: places both windows, turns them on, and routes the pin to line 11. */
function firmware(program: Program, io = IO, mem = MEM): Program {
  return program
    .configure(BDF, 0x10, 4, io)
    .configure(BDF, 0x14, 4, mem)
    .configure(BDF, 0x04, 2, 3)
    .configure(1 << 3, PIRQ, 1, LINE)
}

/** Byte of v86's 8259 that holds the levels of its lines. */
const IRQ_VALUE = 11

/** Level of a line at the slave 8259. */
function levelOf(cpu: Bare['cpu'], line = LINE): 'high' | 'low' {
  const { wasm_memory } = cpu
  const at = (cpu as unknown as { get_pic_addr_slave(): number }).get_pic_addr_slave()
  const levels = new Uint8Array(wasm_memory.buffer, at, 13)
  return ((levels[IRQ_VALUE]! >> (line - 8)) & 1) === 1 ? 'high' : 'low'
}

/** What a v86 must do for devices that are plugged into it. */
export function machineSuite(from: V86Package): void {
  let machines: Bare[] = []
  afterEach(async () => {
    for (const machine of machines) await machine.close()
    machines = []
  })

  const failures: unknown[] = []

  async function start(program: Program, options?: Parameters<typeof bare>[1]) {
    const guest = await bare(program, { package: from, ...options })
    machines.push(guest)
    const machine: Machine = machineOf(guest.emulator, guest.cpu, (error) => failures.push(error))
    let device: TestDevice | undefined
    machine.plug(machine.prepare((bus) => (device = new TestDevice(bus)), BDF))
    return { ...guest, machine, device: device! }
  }

  describe('configuration space', () => {
    test('a guest finds the function, sizes its BARs and sees what it wrote', async () => {
      const program = new Program()
        .configuration(BDF, 0x00, 4)
        .report()
        .configure(BDF, 0x10, 4, 0xffffffff)
        .configuration(BDF, 0x10, 4)
        .report()
        .configure(BDF, 0x14, 4, 0xffffffff)
        .configuration(BDF, 0x14, 4)
        .report()
      firmware(program).configuration(BDF, 0x10, 4).report().configuration(BDF, 0x04, 2).report()
      const { run } = await start(program)
      expect(await run(5)).toEqual([0x56781234, 0xffffffe1, 0xfffff000, IO | 1, 3])
    })

    test('the vendor ID cannot be written, and writes to an absent function do no harm', async () => {
      const { run } = await start(
        new Program()
          .configure(BDF, 0, 4, 0)
          .configuration(BDF, 0, 2)
          .report()
          .configure(3 << 3, 0x04, 1, 7)
          .configure(3 << 3, 0x04, 2, 7)
          .configure(3 << 3, 0x10, 4, 7)
          .configuration(3 << 3, 0, 4)
          .report(),
      )
      expect(await run(2)).toEqual([0x1234, 0xffffffff])
    })

    test('a register is read when it is read, not when its address was written', async () => {
      const program = new Program().out(0xcf8, 4, 0x80000000 | (BDF << 8) | 0x3c)
      program.out(0xcfc, 1, 5).in(0xcfc, 1).report().in(0xcfd, 1).report()
      const { run } = await start(program)
      expect(await run(2)).toEqual([5, 1])
    })
  })

  describe('windows', () => {
    test('answer in every width', async () => {
      const program = firmware(new Program())
      for (const width of [1, 2, 4] as const) program.in(IO, width).report().load(MEM, width).report()
      program
        .in(IO + 2, 2)
        .report()
        .load(MEM + 1, 1)
        .report()
      const { run } = await start(program)
      expect(await run(8)).toEqual([0xef, 0xef, 0xbeef, 0xbeef, 0xdeadbeef, 0xdeadbeef, 0xdead, 0xbe])
    })

    test('take a write of 16 bits as one', async () => {
      const program = firmware(new Program())
      for (const width of [1, 2, 4] as const)
        program.out(IO + 0x14, width, 0x81828384).store(MEM + 0x14, width, 0x81828384)
      const { run, device } = await start(program.say(1))
      await run(1)
      expect(device.writes).toEqual(
        [
          [1, 0x84],
          [2, 0x8384],
          [4, 0x81828384],
        ].flatMap(([width, value]) => [
          ['io', 0x14, width, value],
          ['mem', 0x14, width, value],
        ]),
      )
    })

    test('answer only while the command register says so', async () => {
      const program = firmware(new Program())
      for (const command of [0, 1, 2]) program.configure(BDF, 4, 2, command).in(IO, 4).report().load(MEM, 4).report()
      const { run } = await start(program)
      const all = 0xffffffff
      expect(await run(6)).toEqual([all, all, 0xdeadbeef, all, all, 0xdeadbeef])
    })

    test('move, and leave nothing behind', async () => {
      const program = firmware(firmware(new Program()), IO + 0x100, MEM + 0x100000)
      program
        .in(IO, 4)
        .report()
        .load(MEM, 4)
        .report()
        .in(IO + 0x100, 4)
        .report()
        .load(MEM + 0x100000, 4)
        .report()
      const { run } = await start(program)
      expect(await run(4)).toEqual([0xffffffff, 0xffffffff, 0xdeadbeef, 0xdeadbeef])
    })

    test('stay when a device of v86 is moved over them and away again', async () => {
      const network = 5 << 3
      const program = firmware(new Program(), 0xc000)
      program.configure(network, 0x10, 4, 0xc000).in(0xc000, 4).report()
      program.configure(network, 0x10, 4, 0xc100).in(0xc000, 4).report()
      program.configure(BDF, 0x04, 2, 0).in(0xc000, 4).report()
      const { run } = await start(program)
      expect(await run(3)).toEqual([0xdeadbeef, 0xdeadbeef, 0xffffffff])
    })

    test('cannot lie over RAM or over the firmware', async () => {
      const program = firmware(new Program(), IO, 0x100000).store(0x100000, 4, 7).load(0x100000, 4).report()
      program.configure(BDF, 0x14, 4, 0xfffff000).load(0xfffffff0, 1).report()
      const { run } = await start(program)
      expect(await run(2)).toEqual([7, 0xea])
    })

    test('survive a device that throws', async () => {
      failures.length = 0
      const program = firmware(new Program())
        .in(IO + 0x10, 4)
        .report()
        .load(MEM + 0x10, 1)
        .report()
      const { run } = await start(
        program
          .out(IO + 0x10, 1, 0)
          .store(MEM + 0x10, 4, 0)
          .say(1),
      )
      expect(await run(3)).toEqual([0xffffffff, 0xff, 1])
      expect(failures).toHaveLength(4)
    })

    test('at a fixed port that is taken are refused, by name', async () => {
      const { machine } = await start(new Program())
      const keyboard = (bus: Bus): PciDevice =>
        Object.assign(new TestDevice(bus), {
          windows: [{ space: 'io', port: 0x60, size: 1, read: () => 0, write: () => {} }],
        })
      expect(() => machine.prepare(keyboard, 0x58)).toThrow('Cannot attach test device: I/O port 60h is taken')
      expect(() => machine.prepare((bus) => new TestDevice(bus), BDF)).toThrow('PCI 00:04.0: test device is there')
    })
  })

  describe.each([false, true])('interrupts, ACPI %s', (acpi) => {
    const mask = 0xffff & ~(1 << LINE) & ~(1 << 2)
    const ONCE = 0x9014

    /** A handler that counts, deasserts and does `more`; what is appended runs with interrupts on. */
    function handled(
      space: 'io' | 'mem',
      { lines = mask, more }: { lines?: number; more?: (handler: Program) => unknown } = {},
    ): Program {
      const program = firmware(new Program())
        .store(COUNTER, 4, 0)
        .store(ONCE, 4, 0)
        .interrupts(lines, 1 << LINE)
      program.on(LINE, (handler) => {
        handler.increment(COUNTER)
        if (space === 'io') handler.out(IO + 8, 4, 0)
        else handler.store(MEM + 8, 4, 0)
        more?.(handler)
      })
      return program.sti()
    }

    const raise = (program: Program, space: 'io' | 'mem') =>
      space === 'io' ? program.out(IO + 4, 4, 1) : program.store(MEM + 4, 4, 1)
    /** An access to a port ends the piece of code that v86 runs; interrupts come behind that. */
    const boundary = (program: Program) => program.out(0x80, 1, 0)
    const count = (program: Program) => boundary(program).load(COUNTER, 4).report()
    const pause = () => new Promise((resolve) => setTimeout(resolve, 30))

    describe.each(['io', 'mem'] as const)('raised by a write to the %s window', (space) => {
      test('come once each', async () => {
        const program = handled(space).repeat(3000, LOOP, (body) => raise(body, space).cli().sti().nop())
        const { run } = await start(count(program), { acpi })
        expect(await run(1)).toEqual([3000])
      })

      test('come behind the instruction', async () => {
        const program = handled(space).repeat(3000, LOOP, (body) => boundary(raise(body, space)))
        const { run } = await start(count(program), { acpi })
        expect(await run(1)).toEqual([3000])
      })

      test('wait for STI', async () => {
        const program = handled(space).repeat(300, LOOP, (body) => boundary(raise(body.cli(), space)).sti().nop())
        count(raise(program.cli(), space))
        const { run } = await start(count(program.sti().nop()), { acpi })
        expect(await run(2)).toEqual([300, 301])
      })

      test('end the HLT behind STI, and no other', async () => {
        const program = handled(space).repeat(300, LOOP, (body) => raise(body.cli(), space).sti().hlt())
        count(program).hlt()
        const { run, reports, reported, device } = await start(count(program), { acpi })
        await run(1)
        await pause()
        expect(reports).toEqual([300])
        device.bus.intx(true)
        expect(await reported(2)).toEqual([300, 301])
      })

      test('leave a guest that masks the line halted', async () => {
        const program = raise(handled(space, { lines: 0xffff }).say(1), space)
        const { run, reports, device } = await start(count(program.hlt()), { acpi })
        await run(1)
        await pause()
        expect(reports).toEqual([1])
        expect(device.writes).toHaveLength(1)
      })

      test('come again behind a handler that raises them', async () => {
        const more = (handler: Program) => handler.ifZero(ONCE, (first) => raise(first.increment(ONCE), space))
        const program = handled(space, { more }).repeat(300, LOOP, (body) =>
          boundary(raise(body.store(ONCE, 4, 0), space)),
        )
        const { run } = await start(count(program), { acpi })
        expect(await run(1)).toEqual([600])
      })

      test('are not lost to a state that is saved meanwhile', async () => {
        const turns = 100_000
        // v86 restores its IDE function only with BARs that a firmware has written.
        const program = handled(space)
          .configure(0x1e << 3, 0x10, 4, 0)
          .configure(0x1e << 3, 0x14, 4, 0)
          .say(1)
        count(program.repeat(turns, LOOP, (body) => boundary(raise(body, space))))
        const first = await start(program, { acpi })
        await first.run(1)
        const state = await first.emulator.save_state()
        expect(first.reports).toEqual([1])
        expect(await first.reported(2)).toEqual([1, turns])
        const second = await start(program, { acpi })
        await second.emulator.restore_state(state)
        expect(await second.run(1)).toEqual([turns])
      })

      test('do not come while the machine waits for the host', async () => {
        const program = raise(handled(space).say(1), space).hlt()
        const { run, reports, reported, device, cpu } = await start(count(program), { acpi })
        let answer = () => {}
        device.wait = new Promise((resolve) => {
          answer = resolve
        })
        const counter = () => new Uint32Array(cpu.wasm_memory.buffer, cpu.mem8.byteOffset + COUNTER, 1)[0]
        await run(1)
        await pause()
        expect([...reports, counter()]).toEqual([1, 0])
        device.wait = undefined
        answer()
        await expect.poll(counter).toBe(1)
        expect(await reported(2)).toEqual([1, 1])
      })
    })

    test('raised in the middle of REP OUTS come between its pages', async () => {
      const { run, device } = await start(count(handled('io').outs(IO + 4, 1, 0x100ff0, 32)), { acpi })
      expect(await run(1)).toEqual([2])
      expect(device.writes.filter(([, offset]) => offset === 4)).toHaveLength(32)
    })

    test('raised in the middle of REP INS come between its pages', async () => {
      const { run, cpu } = await start(count(handled('io').ins(IO + 0x18, 0x100ff0, 32)), { acpi })
      expect(await run(1)).toEqual([2])
      const words = new Uint8Array(cpu.wasm_memory.buffer, cpu.mem8.byteOffset + 0x100ff0, 32)
      expect([...words]).toEqual(Array.from({ length: 32 }, (_, at) => at + 1))
    })

    test('raised later wake a halted guest', async () => {
      const { run, reported, device } = await start(count(handled('mem').say(1).hlt()), { acpi })
      await run(1)
      await pause()
      device.bus.intx(true)
      expect(await reported(2)).toEqual([1, 1])
    })
  })

  describe('interrupt lines', () => {
    test('keep a shared line high until everyone has let go', async () => {
      const { run, cpu, device } = await start(firmware(new Program()).say(1))
      await run(1)
      const lines: string[] = []
      const { device_lower_irq } = cpu
      device.bus.intx(true)
      cpu.device_raise_irq(LINE)
      cpu.device_lower_irq(LINE)
      lines.push(levelOf(cpu))
      device.bus.intx(false)
      lines.push(levelOf(cpu))
      cpu.device_raise_irq(LINE)
      device.bus.intx(true)
      device.bus.intx(false)
      lines.push(levelOf(cpu))
      device_lower_irq(LINE)
      lines.push(levelOf(cpu))
      expect(lines).toEqual(['high', 'low', 'high', 'low'])
    })

    test('stay away while the command register disables the pin, and follow a new route', async () => {
      const program = firmware(new Program()).configure(BDF, 4, 2, 0x403).say(1).hlt()
      const { run, cpu, device } = await start(program)
      await run(1)
      device.bus.intx(true)
      expect(levelOf(cpu)).toBe('low')
      expect(device.config.read(0x06, 1) & 8).toBe(8)
      device.config.write(4, 2, 3)
      expect(levelOf(cpu)).toBe('high')
      cpu.devices.pci.pci_write8((1 << 11) | PIRQ, 10)
      expect([levelOf(cpu), levelOf(cpu, 10)]).toEqual(['low', 'high'])
      cpu.devices.pci.pci_write8((1 << 11) | PIRQ, 0x80)
      expect(levelOf(cpu, 10)).toBe('low')
    })
  })

  describe('memory', () => {
    test('is found again after it moved', async () => {
      const { device, cpu } = await start(new Program())
      const { memory } = device.bus
      const before = memory.ram
      before[0x5000] = 7
      cpu.wasm_memory.grow(1)
      expect(before.length).toBe(0)
      expect(memory.ram[0x5000]).toBe(7)
      expect(memory.data.getUint8(0x5000)).toBe(7)
    })

    test('contains RAM and nothing else', async () => {
      const { device } = await start(new Program())
      const { memory } = device.bus
      const size = 16 << 20
      expect(memory.ram.length).toBe(size)
      expect([
        memory.contains(0, size),
        memory.contains(0, 0xa0000),
        memory.contains(0x9ffff, 2),
        memory.contains(0xc0000, size - 0xc0000),
        memory.contains(size - 1, 2),
        memory.contains(-1, 1),
        memory.contains(Number.NaN, 1),
        memory.contains(2 ** 53, 1),
      ]).toEqual([false, true, false, true, false, false, false, false])
    })
  })

  describe('reset', () => {
    test('reaches the device, takes its windows away and starts the guest anew', async () => {
      const program = new Program().in(IO, 4).report()
      const { run, reported, device, emulator } = await start(firmware(program).in(IO, 4).report())
      await run(2)
      emulator.restart()
      expect(await reported(4)).toEqual([0xffffffff, 0xdeadbeef, 0xffffffff, 0xdeadbeef])
      expect(device.resets).toBe(1)
    })

    test('asked for by the guest waits until the host has let go of its memory', async () => {
      const program = new Program()
        .say(1)
        .ifZero(COUNTER, (first) => first.increment(COUNTER).out(0xcf9, 1, 2).out(0xcf9, 1, 6).say(2))
        .say(3)
      const { run, reported, device, reports } = await start(program)
      let letGo = () => {}
      device.wait = new Promise((resolve) => {
        letGo = resolve
      })
      await run(1)
      await new Promise((resolve) => setTimeout(resolve, 50))
      expect(reports).toEqual([1])
      device.wait = undefined
      letGo()
      expect(await reported(3)).toEqual([1, 1, 3])
    })
  })

  test('firmware, which does not page, waits for the host outside of its slice', async () => {
    const program = firmware(new Program())
      .say(1)
      .out(IO + 0x14, 4, 0)
      .say(2)
    const { run, reported, device, reports } = await start(program)
    let answer = () => {}
    device.wait = new Promise((resolve) => {
      answer = resolve
    })
    await run(1)
    await new Promise((resolve) => setTimeout(resolve, 30))
    expect(reports).toEqual([1])
    device.wait = undefined
    answer()
    expect(await reported(2)).toEqual([1, 2])
  })

  describe('state', () => {
    /** v86 restores its IDE function only with BARs that a firmware has written. */
    const quiet = () => new Program().configure(0x1e << 3, 0x10, 4, 0).configure(0x1e << 3, 0x14, 4, 0)

    test('is saved and restored with the emulator', async () => {
      const program = firmware(quiet()).say(1).hlt()
      const first = await start(program)
      await first.run(1)
      first.device.state = { list: [1, 'two', null, true], bytes: new Uint8Array([1, 2, 3]) }
      first.device.bus.intx(true)
      const state = await first.emulator.save_state()

      const second = await start(program)
      await second.emulator.restore_state(state)
      expect(second.device.state).toEqual({ list: [1, 'two', null, true], bytes: new Uint8Array([1, 2, 3]) })
      expect(second.device.config.barAddress(0)).toBe(IO)
      expect(levelOf(second.cpu)).toBe('high')
      second.device.bus.intx(false)
      expect(levelOf(second.cpu)).toBe('low')
    })

    test('of another set of devices is refused', async () => {
      const first = await bare(quiet().say(1), { package: from })
      const second = await start(quiet().say(1))
      machines.push(first)
      machineOf(first.emulator, first.cpu, () => {})
      await first.run(1)
      const state = await first.emulator.save_state()
      await expect(second.emulator.restore_state(state)).rejects.toThrow('it was saved with other drives attached')
    })
  })

  test('under ACPI the hot-plug registers read as zero', async () => {
    const { run } = await start(new Program().in(0xae00, 4).report().in(0xae08, 1).report(), { acpi: true })
    expect(await run(2)).toEqual([0, 0])
  })
}

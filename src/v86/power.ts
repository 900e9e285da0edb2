/** How a guest says that it is done. */
import type { Emulator, V86Cpu } from './internals.ts'

/** PM1 control register where v86 has it [ACPI 4.8.3.2.1]. */
const PM1_CONTROL = 0xb004
const SLEEP_ENABLE = 1 << 13
const SLEEP_TYPE = 7 << 10
/** Soft off, as SeaBIOS's tables call it. */
const SOFT_OFF = 0

interface HaltEvents {
  add_listener(event: 'cpu-event-halt', listener: () => void): void
}

/**
 * Calls `listener` when the guest turns the machine off: through ACPI, or, on a machine without it, by halting the processor
 * with interrupts off, from which nothing but a reset wakes it.
 */
export function onPowerOff(emulator: Emulator, cpu: V86Cpu, listener: () => void): void {
  // v86 publishes the event but leaves it out of its type declarations.
  ;(emulator as unknown as HaltEvents).add_listener('cpu-event-halt', listener)
  if (!cpu.acpi_enabled[0]) return
  const entry = cpu.io.ports[PM1_CONTROL]!
  const { write16, device } = entry
  entry.write16 = (value) => {
    write16.call(device, value)
    if ((value & SLEEP_ENABLE) !== 0 && (value & SLEEP_TYPE) >> 10 === SOFT_OFF) listener()
  }
}

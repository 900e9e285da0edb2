/** Guests under v86 in this process, with the serial console as a stream of text: for tests, benchmarks and the demonstration. */

import { readFile } from 'node:fs/promises'
import type { Disk } from '../src/block/disk.ts'
import { bytesVec } from '../src/block/iovec.ts'
import { type OpenDiskOptions, openDisk } from '../src/block/open.ts'
import { type MachineOptions, makeEmulator, type NodeEmulator } from '../src/cli/emulator.ts'
import { findFirmware } from '../src/cli/firmware.ts'
import { cpuOf, type V86Cpu } from '../src/v86/internals.ts'
import { onPowerOff } from '../src/v86/power.ts'
import { type AttachOptions, attachDrives, type Drive, type Drives } from '../src/v86.ts'
import { ARGUMENTS_OFFSET, argumentsSector, type DebianGuest, PROMPT, READY_MARK } from './debian/index.ts'

const BOOT_TIMEOUT_MS = 600_000
const COMMAND_TIMEOUT_MS = 300_000
/** How much of the console an error shows, characters. */
const TAIL = 1500

export interface GuestOptions extends Partial<MachineOptions>, AttachOptions {
  /** Gives the BIOS and the VGA BIOS, unless `bios` and `vgabios` do. */
  readonly guest?: Pick<DebianGuest, 'bios' | 'vgabios'>
  readonly drives: readonly Drive[]
  /** Gets everything that the guest writes to the console, as it comes. */
  readonly onOutput?: (text: string) => void
}

/** What a command in the guest's shell said on both its outputs, and how it ended. */
export interface CommandResult {
  readonly status: number
  readonly output: string
}

/** A machine that runs. */
export interface Guest {
  readonly emulator: NodeEmulator
  readonly cpu: V86Cpu
  readonly drives: Drives
  /** All that came out of the console. */
  readonly output: string
  /** Sends text to the console; Enter is `\n`. */
  type(text: string): void
  /**
   * Waits for text on the console, from where the last wait ended; default 5 minutes. Rejects with the end of the console when the
   * time is over or the guest has turned itself off.
   */
  waitFor(pattern: RegExp | string, options?: { timeout?: number }): Promise<string>
  /** Waits for the guest's shell, after a start or a restart, and makes it ready for {@link run}. */
  ready(options?: { timeout?: number }): Promise<void>
  /** Runs shell commands, one or many lines, in the guest; `ready` must have been. */
  run(command: string, options?: { timeout?: number }): Promise<CommandResult>
  /** Like {@link run}, but rejects unless the status is 0; gives the output without spaces around it. */
  must(command: string, options?: { timeout?: number }): Promise<string>
  /** Resolves when the guest turns itself off. */
  readonly poweredOff: Promise<void>
  /** Turns the machine off as a power cut would, and closes the drives. */
  close(): Promise<void>
}

/** Starts a machine. Close it, or the process stays alive. */
export async function bootGuest(options: GuestOptions): Promise<Guest> {
  const { guest, drives: wanted, onOutput, ...machine } = options
  const firmware = guest ?? findFirmware(options.bios)
  const { emulator, loaded } = await makeEmulator({
    memory: 256,
    bios: firmware.bios,
    vgabios: firmware.vgabios,
    ...machine,
  })
  const drives = await attachDrives(emulator, wanted, options)
  const console = new Console((text) => emulator.serial0_send(text), onOutput)
  emulator.add_listener('serial0-output-byte', (byte) => console.put(byte))
  await loaded
  const cpu = cpuOf(emulator)!
  const poweredOff = new Promise<void>((resolve) => onPowerOff(emulator, cpu, resolve))
  void poweredOff.then(() => console.end('the guest turned itself off'))
  await emulator.run()
  const ready = async ({ timeout = BOOT_TIMEOUT_MS } = {}) => {
    await console.waitFor(READY_MARK, timeout)
    await console.waitFor(PROMPT, timeout)
    // No line editing, no echo, no prompts and no messages of the kernel among the answers.
    console.type(
      `dmesg -n 1; stty -echo; exec bash --noprofile --norc --noediting\nPS1= PS2=; echo "$((6*7)) shells"\n`,
    )
    await console.waitFor('42 shells\n', timeout)
  }
  return {
    emulator,
    cpu,
    drives,
    get output() {
      return console.text
    },
    type: (text) => console.type(text),
    waitFor: (pattern, { timeout = COMMAND_TIMEOUT_MS } = {}) => console.waitFor(pattern, timeout),
    ready,
    run: (command, { timeout = COMMAND_TIMEOUT_MS } = {}) => console.run(command, timeout),
    async must(command, { timeout = COMMAND_TIMEOUT_MS } = {}) {
      const { status, output } = await console.run(command, timeout)
      if (status !== 0) throw new Error(`in the guest, ${command} ended with ${status}:\n${output}`)
      return output.trim()
    },
    poweredOff,
    async close() {
      console.end('the guest was closed')
      await emulator.stop()
      await drives.close()
      await emulator.destroy()
    },
  }
}

export interface GuestDiskOptions extends OpenDiskOptions {
  /** More kernel arguments for GRUB to add; later ones win. */
  readonly arguments?: string
  /** How GRUB reads the disk: through the BIOS (default) or with its own ATA driver. */
  readonly loader?: 'bios' | 'ata'
}

/** The guest's disk, to be written without harm to the one in the cache: what is written vanishes when it is closed. */
export async function openGuestDisk(guest: DebianGuest, options: GuestDiskOptions = {}): Promise<Disk> {
  const { arguments: text, loader, ...open } = options
  const disk = await openDisk(guest.disk, { format: 'raw', snapshot: true, ...open })
  if (loader === 'ata') await disk.write(0, bytesVec(new Uint8Array(await readFile(guest.ataBootArea))))
  if (text !== undefined) await giveArguments(disk, text)
  return disk
}

/** Has the boot loader on a guest's disk, which must not be the one in the cache, add kernel arguments. */
export async function giveArguments(disk: Disk, text: string): Promise<void> {
  await disk.write(ARGUMENTS_OFFSET, bytesVec(new Uint8Array(argumentsSector(text))))
}

/** The text that went over the serial line, and who waits for some of it. */
class Console {
  text = ''
  /** Where the last wait ended. */
  #seen = 0
  #checks = new Set<() => void>()
  #checking = false
  #ended: string | undefined
  #runs = 0
  readonly #send: (text: string) => void
  readonly #onOutput: ((text: string) => void) | undefined
  readonly #decoder = new TextDecoder()

  constructor(send: (text: string) => void, onOutput: ((text: string) => void) | undefined) {
    this.#send = send
    this.#onOutput = onOutput
  }

  put(byte: number): void {
    const text = this.#decoder.decode(Uint8Array.of(byte), { stream: true })
    this.#onOutput?.(text)
    if (text === '\r') return
    this.text += text
    if (this.#checking || this.#checks.size === 0) return
    this.#checking = true
    // The guest writes many bytes in one slice of its time.
    setImmediate(() => {
      this.#checking = false
      for (const check of this.#checks) check()
    })
  }

  type(text: string): void {
    this.#send(text)
  }

  end(reason: string): void {
    this.#ended ??= reason
    for (const check of this.#checks) check()
  }

  waitFor(pattern: RegExp | string, timeout: number): Promise<string> {
    return new Promise((resolve, reject) => {
      const finish = () => {
        this.#checks.delete(check)
        clearTimeout(timer)
      }
      const fail = (reason: string) => {
        finish()
        reject(new Error(`${reason} before ${pattern} came; the console ends with:\n${this.text.slice(-TAIL)}`))
      }
      const check = () => {
        const found = this.#find(pattern)
        if (found !== undefined) {
          finish()
          resolve(found)
        } else if (this.#ended !== undefined) fail(this.#ended)
      }
      const timer = setTimeout(() => fail(`${timeout / 1000} s passed`), timeout)
      this.#checks.add(check)
      check()
    })
  }

  async run(command: string, timeout: number): Promise<CommandResult> {
    const mark = `=${++this.#runs}=`
    // The marks are put together by the shell, so that an echo of this line would not look like them.
    this.type(`echo "<"'${mark}'; {\n${command}\n} 2>&1 < /dev/null; printf '\\n%s %d\\n' ">"'${mark}' $?\n`)
    await this.waitFor(`<${mark}\n`, timeout)
    const start = this.#seen
    const end = await this.waitFor(new RegExp(`\n>${mark} (\\d+)\n`), timeout)
    return {
      status: Number(end.trim().split(' ')[1]),
      output: this.text.slice(start, this.#seen - end.length),
    }
  }

  #find(pattern: RegExp | string): string | undefined {
    if (typeof pattern === 'string') {
      const at = this.text.indexOf(pattern, this.#seen)
      if (at < 0) return undefined
      this.#seen = at + pattern.length
      return pattern
    }
    const found = pattern.exec(this.text.slice(this.#seen))
    if (found === null) return undefined
    this.#seen += found.index + found[0].length
    return found[0]
  }
}

/** The Debian guest in QEMU, for images and exports of ours. */
import { spawn } from 'node:child_process'
import { PROMPT, READY_MARK } from '../../guests/debian/index.ts'

const MACHINE = '-accel tcg -m 256 -nodefaults -display none -serial stdio -monitor none -no-reboot'

/** A guest that was started with {@link bootQemu}. */
export interface QemuGuest {
  type(line: string): void
  /** Resolves when the console has shown `expected`; rejects when QEMU ends before. */
  comes(expected: RegExp): Promise<void>
  /** Ends it as a power cut would. */
  kill(): void
}

/** Boots QEMU from `drive` (the value of -drive) until the guest's prompt is there. */
export async function bootQemu(drive: string): Promise<QemuGuest> {
  const qemu = spawn('qemu-system-i386', [...MACHINE.split(' '), '-drive', drive])
  let text = ''
  qemu.stderr.on('data', (piece: Buffer) => (text += piece))
  qemu.stdout.on('data', (piece: Buffer) => (text += piece))
  const guest: QemuGuest = {
    type: (line) => void qemu.stdin.write(`${line}\n`),
    comes: (expected) =>
      new Promise<void>((resolve, reject) => {
        const check = () => expected.test(text) && resolve()
        qemu.stdout.on('data', check)
        qemu.on('exit', () => reject(new Error(`QEMU ended:\n${text.slice(-2000)}`)))
        check()
      }),
    kill: () => void qemu.kill('SIGKILL'),
  }
  try {
    await guest.comes(new RegExp(`${READY_MARK}[^]*${PROMPT}`))
  } catch (error) {
    guest.kill()
    throw error
  }
  return guest
}

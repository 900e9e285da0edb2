/** A v86 in Node, made from what people type for QEMU. */
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { V86, V86Options } from 'v86'
import { BlockError } from '../block/error.ts'
import type { Emulator } from '../v86.ts'

export interface MachineOptions {
  /** RAM, MiB. */
  readonly memory: number
  /** Files with the BIOS and the VGA BIOS. */
  readonly bios: string
  readonly vgabios?: string
  /** A Linux kernel to be booted directly, with its initial RAM disk and its command line. */
  readonly kernel?: string
  readonly initrd?: string
  readonly append?: string
  /** Offer ACPI and the APICs; default false. */
  readonly acpi?: boolean
  /** More options of v86, which win over those above. */
  readonly v86?: Partial<V86Options>
}

/** An emulator that serves as both: the package's and ours. */
export type NodeEmulator = V86 & Emulator

export interface NodeMachine {
  readonly emulator: NodeEmulator
  /** Resolves when it can run. */
  readonly loaded: Promise<void>
}

/** Makes an emulator that does not run yet, and that drives can be attached to. */
export async function makeEmulator(options: MachineOptions): Promise<NodeMachine> {
  const { V86: Emulator, wasm } = await loadV86()
  const image = async (file: string) => ({ buffer: await readBuffer(file) })
  const emulator = new Emulator({
    wasm_path: wasm,
    memory_size: options.memory * 1024 * 1024,
    vga_memory_size: 2 * 1024 * 1024,
    bios: await image(options.bios),
    ...(options.vgabios === undefined ? {} : { vga_bios: await image(options.vgabios) }),
    ...(options.kernel === undefined ? {} : { bzimage: await image(options.kernel) }),
    ...(options.initrd === undefined ? {} : { initrd: await image(options.initrd) }),
    ...(options.append === undefined ? {} : { cmdline: options.append }),
    acpi: options.acpi ?? false,
    disable_keyboard: true,
    disable_mouse: true,
    disable_speaker: true,
    autostart: false,
    ...options.v86,
  }) as NodeEmulator
  const loaded = new Promise<void>((resolve) => emulator.add_listener('emulator-loaded', () => resolve()))
  return { emulator, loaded }
}

/** The `v86` that is installed beside this program, and the file of its WebAssembly. */
async function loadV86(): Promise<{ V86: typeof V86; wasm: string }> {
  const require = createRequire(import.meta.url)
  let entry: string
  try {
    entry = require.resolve('v86')
  } catch (cause) {
    throw new BlockError('ENOENT', 'Cannot start a machine: the emulator is missing; install it with npm install v86', {
      cause,
    })
  }
  const module = (await import(pathToFileURL(entry).href)) as typeof import('v86')
  return { V86: module.V86, wasm: join(dirname(entry), 'v86.wasm') }
}

async function readBuffer(file: string): Promise<ArrayBuffer> {
  const bytes = await readFile(file)
  return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength) as ArrayBuffer
}

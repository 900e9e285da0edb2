/** Formats that are known by their first or last bytes, and that nobody here can read. */
import type { BlockDevice } from '../../block/device.ts'
import { formats } from '../../block/formats/index.ts'
import { bytesVec } from '../../block/iovec.ts'

const ascii = (text: string) => new TextEncoder().encode(text)
const bytes = (...values: readonly number[]) => Uint8Array.from(values)

/** A mark of a format: bytes at an offset, from the file's end if it is negative. */
const MARKS: readonly (readonly [format: string, at: number, mark: Uint8Array])[] = [
  ['vmdk', 0, ascii('KDMV')],
  ['vmdk', 0, ascii('COWD')],
  ['vmdk', 0, ascii('# Disk DescriptorFile')],
  ['vdi', 0x40, bytes(0x7f, 0x10, 0xda, 0xbe)],
  ['vpc', 0, ascii('conectix')],
  ['vhdx', 0, ascii('vhdxfile')],
  ['luks', 0, bytes(0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe)],
  ['parallels', 0, ascii('WithoutFreeSpace')],
  ['parallels', 0, ascii('WithouFreSpacExt')],
  ['bochs', 0, ascii('Bochs Virtual HD Image')],
  ['cloop', 0, ascii('#!/bin/sh\n#V2.0 Format\n')],
  ['dmg', -512, ascii('koly')],
]

/** The format that a file is in, if it is one of these; else it may be raw. */
export async function foreignFormat(file: BlockDevice): Promise<string | undefined> {
  for (const [format, place, mark] of MARKS) {
    const at = place < 0 ? file.size + place : place
    if (at < 0 || at + mark.length > file.size || formats.some(({ name }) => name === format)) continue
    const found = new Uint8Array(mark.length)
    await file.read(at, bytesVec(found))
    if (found.every((byte, index) => byte === mark[index])) return format
  }
  return undefined
}

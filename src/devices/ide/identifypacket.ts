/** IDENTIFY PACKET DEVICE [ATA/ATAPI-7 volume 1, 6.16]. */
import type { AtapiDrive } from './atapi.ts'
import { bits, cableWord, putModes, putName, putText, sealIdentify } from './words.ts'

/** ATAPI, CD-ROM, removable, DRQ within 50 microseconds of PACKET, packets of 12 bytes. */
const CDROM = 0x85c0

/** The 512 bytes. */
export function identifyPacket({ identity, settings, unit }: AtapiDrive): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(512)
  const words = new DataView(bytes.buffer)
  const word = (index: number, value: number) => words.setUint16(2 * index, value, true)
  word(0, CDROM)
  putText(words, 10, 20, identity.serial)
  putText(words, 23, 8, identity.firmware)
  putText(words, 27, 40, identity.model)
  word(49, bits(8, 9, 10, 11)) // DMA, LBA, IORDY
  word(50, bits(14))
  putModes(words, settings)
  word(80, bits(4, 5, 6, 7)) // ATA/ATAPI-4 to -7
  word(82, bits(3, 4, 9, 14)) // power management, PACKET, DEVICE RESET, NOP
  word(83, bits(14))
  word(84, bits(14, identity.wwn !== undefined && 8))
  word(85, bits(3, 4, 9, 14))
  word(87, bits(14, identity.wwn !== undefined && 8))
  word(93, cableWord(unit))
  if (identity.wwn !== undefined) putName(words, identity.wwn)
  word(125, 0) // a byte count limit of zero is an error
  word(222, bits(0, 1))
  sealIdentify(bytes)
  return bytes
}

/** IDENTIFY DEVICE: the drive describes itself, from what it is and from what it is set to [ATA8-ACS 7.16; ACS-3 7.12]. */
import { CHS_LIMIT, LBA28_LIMIT } from './address.ts'
import type { AtaDisk } from './ata.ts'
import { TRIM_BLOCKS } from './commands/trim.ts'
import { defaultTranslation, MULTIPLE_LIMIT } from './settings.ts'
import { bits, cableWord, putModes, putName, putText, sealIdentify } from './words.ts'

/** Time that a secure erase takes, word 89: units of two minutes. */
const ERASE_TIME = 1
const BUFFER_SECTORS = 256

/** The 512 bytes. */
export function identify(ata: AtaDisk): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(512)
  const words = new DataView(bytes.buffer)
  const { disk, identity, settings, security, maximum, smart } = ata
  const word = (index: number, value: number) => words.setUint16(2 * index, value, true)
  const double = (index: number, value: number) => words.setUint32(2 * index, value, true)
  const { sectors } = ata
  const geometry = defaultTranslation(sectors)
  const { heads, sectors: perTrack } = settings.translation
  const cylinders = settings.cylinders(sectors)

  word(0, bits(6)) // fixed drive
  word(1, geometry.cylinders)
  word(2, 0xc837) // complete: no SET FEATURES is needed to spin up
  word(3, geometry.heads)
  word(6, geometry.sectors)
  putText(words, 10, 20, identity.serial)
  word(20, 3) // dual ported buffer with read cache [ATA-2]
  word(21, BUFFER_SECTORS)
  word(22, 4) // ECC bytes of the long commands [ATA-3]
  putText(words, 23, 8, identity.firmware)
  putText(words, 27, 40, identity.model)
  word(47, 0x8000 | MULTIPLE_LIMIT)
  word(48, bits(14))
  word(49, bits(8, 9, 10, 11, 13)) // DMA, LBA, IORDY (may be disabled), standby timer as in the standard
  word(50, bits(14))
  word(51, 2 << 8) // PIO cycle timing mode
  word(52, 2 << 8)
  putModes(words, settings)
  word(54, cylinders)
  word(55, heads)
  word(56, perTrack)
  double(57, Math.min(cylinders * heads * perTrack, CHS_LIMIT))
  // SANITIZE: antifreeze, other commands during it as in ACS-3, the feature set, overwrite, block erase
  word(59, (settings.multiple > 0 ? 0x100 | settings.multiple : 0) | bits(10, 11, 12, 14, 15))
  double(60, Math.min(sectors, LBA28_LIMIT))
  word(69, bits(11, 10, ata.trims && ata.trimsToZero && 14, ata.trims && ata.trimsToZero && 5)) // buffer DMA, DRAT, RZAT
  word(75, 0) // no queued commands on a parallel cable: depth 1
  word(80, bits(4, 5, 6, 7, 8, 9, 10)) // ATA/ATAPI-4 to ACS-3
  word(81, 0x006d) // ACS-3 revision 5
  // SMART, Security, power management, write cache, look-ahead, HPA, WRITE and READ BUFFER, NOP
  word(82, bits(0, 1, 3, 5, 6, 10, 12, 13, 14))
  // APM, SET MAX security, 48-bit addresses, FLUSH CACHE and FLUSH CACHE EXT
  word(83, bits(14, 3, 8, 10, 12, 13))
  // SMART error log and self-test, General Purpose Logging, FUA writes, WWN
  const supported84 = bits(14, 0, 1, 5, 6, identity.wwn !== undefined && 8)
  word(84, supported84)
  word(
    85,
    bits(smart.enabled && 0, security.enabled && 1, 3, disk.writeCache && 5, settings.lookAhead && 6, 10, 12, 13, 14),
  )
  word(86, bits(settings.powerManagement > 0 && 3, maximum.hasPassword && 8, 10, 12, 13, 15)) // 15: 119, 120 valid
  word(87, supported84)
  word(89, ERASE_TIME)
  word(90, ERASE_TIME)
  word(91, settings.powerManagement)
  word(92, security.revision)
  word(93, cableWord(ata.unit))
  words.setBigUint64(2 * 100, BigInt(sectors), true)
  word(105, ata.trims ? TRIM_BLOCKS : 0)
  const exponent = Math.log2(disk.physicalBlockSize / ata.sectorSize)
  word(106, bits(14, exponent > 0 && 13, ata.sectorSize > 512 && 12) | Math.min(exponent, 15))
  if (identity.wwn !== undefined) putName(words, identity.wwn)
  if (ata.sectorSize > 512) double(117, ata.sectorSize / 2)
  word(119, bits(14, 3)) // READ and WRITE LOG DMA EXT
  word(120, bits(14, 3))
  word(128, security.word)
  word(169, ata.trims ? 1 : 0)
  word(209, bits(14)) // the first logical sector begins a physical one
  word(217, identity.rotationRate)
  word(222, bits(0, 1)) // parallel: ATA8-APT, ATA/ATAPI-7
  sealIdentify(bytes)
  return bytes
}

/** The chips of the family that can be shown: what PCI says of them, and what they have. */
import type { PciDeclaration } from '../pci.ts'

export type Variant = 'lsi53c895a' | 'lsi53c810'

interface Description {
  readonly name: string
  readonly pci: PciDeclaration
  /** Size of the memory window of the registers, bytes. */
  readonly registerSize: number
  /** SCRIPTS RAM, bytes. */
  readonly ramSize: number
  readonly wide: boolean
  /** Chip type in MACNTL bits 7:4. */
  readonly macntl: number
}

const SCSI_CONTROLLER = 0x010000
const SYMBIOS = 0x1000

export const variants: Readonly<Record<Variant, Description>> = {
  lsi53c895a: {
    name: 'lsi53c895a',
    pci: {
      vendorId: SYMBIOS,
      deviceId: 0x0012,
      subsystemVendorId: SYMBIOS,
      subsystemId: 0x1000,
      revision: 0x01,
      classCode: SCSI_CONTROLLER,
      interruptPin: 1,
      bars: [
        { index: 0, space: 'io', size: 256 },
        { index: 1, space: 'mem', size: 1024 },
        { index: 2, space: 'mem', size: 8192 },
      ],
      registers: [{ at: 0x3e, bytes: Uint8Array.of(0x11, 0x12) }],
    },
    registerSize: 1024,
    ramSize: 8192,
    wide: true,
    macntl: 0xd0,
  },
  lsi53c810: {
    name: 'lsi53c810',
    pci: {
      vendorId: SYMBIOS,
      deviceId: 0x0001,
      subsystemVendorId: 0,
      subsystemId: 0,
      revision: 0x01,
      classCode: SCSI_CONTROLLER,
      interruptPin: 1,
      bars: [
        { index: 0, space: 'io', size: 256 },
        { index: 1, space: 'mem', size: 256 },
      ],
      registers: [{ at: 0x3e, bytes: Uint8Array.of(0x08, 0x40) }],
    },
    registerSize: 256,
    ramSize: 0,
    wide: false,
    macntl: 0x00,
  },
}

/**
 * The kernel without its compression. An emulated processor spends longer on unpacking Debian's kernel than on all of
 * its start, so the same code and data are stored as they will lie in memory, behind a few instructions that put them
 * there. Names are those of the Linux/x86 boot protocol and of the ELF specification.
 */

const SECTOR = 512
const SETUP_SECTS = 0x1f1
const SYSSIZE = 0x1f4
const SYSSIZE_UNIT = 16
const HEADER_MAGIC = 0x202
const RELOCATABLE_KERNEL = 0x234
const PAYLOAD_OFFSET = 0x248
const PAYLOAD_LENGTH = 0x24c
const INIT_SIZE = 0x260

const E_ENTRY = 24
const E_PHOFF = 28
const E_PHENTSIZE = 42
const E_PHNUM = 44
const PT_LOAD = 1

/** Where boot loaders put the protected-mode part of a kernel that is not relocatable, and jump to. */
const LOAD_ADDRESS = 0x100000
/** Room for the instructions in front of what they move. */
const STUB_BYTES = 4096
const WORD = 4

/** The compressed kernel inside a bzImage. */
export function kernelPayload(bzImage: Buffer): Buffer {
  const start = setupBytes(bzImage) + bzImage.readUInt32LE(PAYLOAD_OFFSET)
  return bzImage.subarray(start, start + bzImage.readUInt32LE(PAYLOAD_LENGTH))
}

/** A bzImage that holds `vmlinux`, the ELF file for i386 that was unpacked from `bzImage`, as it is. */
export function plainKernel(bzImage: Buffer, vmlinux: Buffer): Buffer {
  const setup = Buffer.from(bzImage.subarray(0, setupBytes(bzImage)))
  const { image, address, size, entry } = memoryImage(vmlinux)
  const code = Buffer.concat([stub(address, image.length, size, entry), image])
  setup.writeUInt32LE(Math.ceil(code.length / SYSSIZE_UNIT), SYSSIZE)
  setup.writeUInt8(0, RELOCATABLE_KERNEL)
  setup.writeUInt32LE(0, PAYLOAD_OFFSET)
  setup.writeUInt32LE(0, PAYLOAD_LENGTH)
  setup.writeUInt32LE(address + size - LOAD_ADDRESS, INIT_SIZE)
  return Buffer.concat([setup, code])
}

/** Bytes of the real-mode part, after which the protected-mode part begins. */
function setupBytes(bzImage: Buffer): number {
  if (bzImage.toString('latin1', HEADER_MAGIC, HEADER_MAGIC + 4) !== 'HdrS') throw new Error('The kernel is no bzImage')
  return (bzImage.readUInt8(SETUP_SECTS) + 1) * SECTOR
}

/** What lies in memory from physical `address` on; `size` counts the zeros behind `image` too. */
interface MemoryImage {
  readonly image: Buffer
  readonly address: number
  readonly size: number
  readonly entry: number
}

function memoryImage(elf: Buffer): MemoryImage {
  if (elf.readUInt32BE(0) !== 0x7f454c46) throw new Error('The kernel in the bzImage is no ELF file')
  const segments = []
  for (let index = 0; index < elf.readUInt16LE(E_PHNUM); index++) {
    const at = elf.readUInt32LE(E_PHOFF) + index * elf.readUInt16LE(E_PHENTSIZE)
    const [type, offset, , address, inFile, inMemory] = Array.from({ length: 6 }, (_, i) =>
      elf.readUInt32LE(at + i * 4),
    )
    if (type === PT_LOAD)
      segments.push({ data: elf.subarray(offset!, offset! + inFile!), address: address!, inMemory: inMemory! })
  }
  const address = Math.min(...segments.map((one) => one.address))
  const end = Math.max(...segments.map((one) => one.address + one.inMemory))
  const dataEnd = Math.max(...segments.map((one) => one.address + one.data.length))
  const image = Buffer.alloc(Math.ceil((dataEnd - address) / WORD) * WORD)
  for (const one of segments) image.set(one.data, one.address - address)
  return { image, address, size: end - address, entry: elf.readUInt32LE(E_ENTRY) }
}

/** The instructions that a boot loader enters in flat 32-bit mode with the boot parameters' address in ESI. */
function stub(address: number, length: number, size: number, entry: number): Buffer {
  const words = length / WORD
  const from = LOAD_ADDRESS + STUB_BYTES
  const u32 = (value: number): number[] => [value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24]
  const code = [
    0xfa, //                                       cli
    ...[0x89, 0xf5], //                            mov ebp, esi
    0xfd, //                                       std: the places may overlap, and the kernel's is the higher one
    ...[0xbe, ...u32(from + length - WORD)], //    mov esi, its last word here
    ...[0xbf, ...u32(address + length - WORD)], // mov edi, its last word there
    ...[0xb9, ...u32(words)], //                   mov ecx, words
    ...[0xf3, 0xa5], //                            rep movsd
    0xfc, //                                       cld
    ...[0xbf, ...u32(address + length)], //        mov edi, what follows it
    ...[0xb9, ...u32((size - length) / WORD)], //  mov ecx, words
    ...[0x31, 0xc0], //                            xor eax, eax
    ...[0xf3, 0xab], //                            rep stosd
    ...[0x89, 0xee], //                            mov esi, ebp
    ...[0xb8, ...u32(entry)], //                   mov eax, entry
    ...[0xff, 0xe0], //                            jmp eax
  ]
  const bytes = Buffer.alloc(STUB_BYTES)
  bytes.set(code)
  return bytes
}

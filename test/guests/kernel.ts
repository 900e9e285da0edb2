/** A kernel of a few instructions, for boot loaders: it adds up what came with it and says the sum on the serial port. */

// The Linux/x86 boot protocol's header, in the first sector's end and after it
const SETUP_SECTS = 0x1f1
const SYSSIZE = 0x1f4
const RELOCATABLE_KERNEL = 0x234
const PAYLOAD_OFFSET = 0x248
const PAYLOAD_LENGTH = 0x24c
const INIT_SIZE = 0x260

const LOAD_ADDRESS = 0x10_0000
const CODE_BYTES = 512
const MESSAGE = Buffer.from('\nSUM \0')
const COM1 = 0x3f8

const u32 = (value: number): number[] => [value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24]

/** The sum that it says of `payload`, whose length is a multiple of 4: eight hexadecimal digits. */
export function sumOf(payload: Buffer): string {
  let sum = 0
  for (let at = 0; at < payload.length; at += 4) sum = ((sum << 5) | (sum >>> 27)) ^ payload.readUInt32LE(at)
  return (sum >>> 0).toString(16).toUpperCase().padStart(8, '0')
}

/** The kernel, whole sectors, with the real-mode part of `bzImage`. */
export function summingKernel(bzImage: Buffer, payload: Buffer): Uint8Array<ArrayBuffer> {
  const setup = (bzImage.readUInt8(SETUP_SECTS) + 1) * 512
  const kernel = Buffer.alloc(setup + CODE_BYTES + Math.ceil(payload.length / 512) * 512)
  bzImage.copy(kernel, 0, 0, setup)
  kernel.writeUInt32LE((kernel.length - setup) / 16, SYSSIZE)
  kernel.writeUInt8(0, RELOCATABLE_KERNEL)
  kernel.writeUInt32LE(0, PAYLOAD_OFFSET)
  kernel.writeUInt32LE(0, PAYLOAD_LENGTH)
  kernel.writeUInt32LE(1 << 20, INIT_SIZE)
  kernel.set(code(payload.length / 4), setup)
  MESSAGE.copy(kernel, setup + CODE_BYTES - MESSAGE.length)
  payload.copy(kernel, setup + CODE_BYTES)
  return new Uint8Array(kernel)
}

/** What a boot loader enters in flat 32-bit mode. */
function code(words: number): number[] {
  return [
    0xfc, //                                                       cld
    ...[0xbe, ...u32(LOAD_ADDRESS + CODE_BYTES)], //               mov esi, payload
    ...[0xb9, ...u32(words)], //                                   mov ecx, words
    ...[0x31, 0xdb], //                                            xor ebx, ebx
    0xad, //                                                       add: lodsd
    ...[0xc1, 0xc3, 5], //                                         rol ebx, 5
    ...[0x31, 0xc3], //                                            xor ebx, eax
    ...[0xe2, 0xf8], //                                            loop add
    ...[0xbe, ...u32(LOAD_ADDRESS + CODE_BYTES - MESSAGE.length)], // mov esi, message
    ...[0xba, ...u32(COM1)], //                                    mov edx, COM1
    0xac, //                                                       say: lodsb
    ...[0x84, 0xc0], //                                            test al, al
    ...[0x74, 0x03], //                                            jz digits
    0xee, //                                                       out dx, al
    ...[0xeb, 0xf8], //                                            jmp say
    ...[0xb9, ...u32(8)], //                                       digits: mov ecx, 8
    ...[0xc1, 0xc3, 4], //                                         digit: rol ebx, 4
    ...[0x88, 0xd8], //                                            mov al, bl
    ...[0x24, 0x0f], //                                            and al, 15
    ...[0x04, 0x30], //                                            add al, '0'
    ...[0x3c, 0x39], //                                            cmp al, '9'
    ...[0x76, 0x02], //                                            jbe put
    ...[0x04, 0x07], //                                            add al, 'A' - '0' - 10
    0xee, //                                                       put: out dx, al
    ...[0xe2, 0xee], //                                            loop digit
    ...[0xb0, 0x0a], //                                            mov al, newline
    0xee, //                                                       out dx, al
    ...[0xeb, 0xfe], //                                            jmp here
  ]
}

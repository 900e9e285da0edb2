/** The Debian guest's disk and CD-ROM, looked at from outside. */
import { open, readFile, stat } from 'node:fs/promises'
import { beforeAll, describe, expect, test } from 'vitest'
import { run } from '../../guests/command.ts'
import { cdPattern } from '../../guests/debian/cd.ts'
import {
  ARGUMENTS_OFFSET,
  argumentsSector,
  buildDebianGuest,
  CD_PATTERN_PATH,
  type DebianGuest,
  PARTITION_BYTES,
} from '../../guests/debian/index.ts'
import { lacks, runTool } from '../tools.ts'

const MIB = 1 << 20

let guest: DebianGuest
let head: Buffer
beforeAll(async () => {
  guest = await buildDebianGuest({ onProgress: (message) => console.log(message) })
  const file = await open(guest.disk)
  head = Buffer.alloc(PARTITION_BYTES)
  await file.read(head, 0, head.length, 0)
  await file.close()
})

test('a second build finds everything made', async () => {
  const said: string[] = []
  expect(await buildDebianGuest({ onProgress: (message) => said.push(message) })).toEqual(guest)
  expect(said).toEqual([])
})

test('the kernel and the tools are there, in versions that Debian gave them', () => {
  expect(guest.kernelVersion).toMatch(/^6\.1\.0-\d+-686$/)
  for (const name of ['linux-image-686', 'busybox-static', 'e2fsprogs', 'util-linux', 'fio', 'seabios']) {
    expect(guest.versions[name], name).toMatch(/^[0-9:]+/)
  }
})

describe('the disk', () => {
  test('is 512 MiB and sparse', async () => {
    const { size, blocks } = await stat(guest.disk)
    expect(size).toBe(512 * MIB)
    expect(blocks * 512).toBeLessThan(256 * MIB)
  })

  test('begins with an MBR: boot code, one active Linux partition from 1 MiB to the end, the mark', () => {
    expect(head.subarray(0, 440).some((byte) => byte !== 0)).toBe(true)
    expect(head.readUInt16LE(510)).toBe(0xaa55)
    expect(head[446]).toBe(0x80)
    expect(head[446 + 4]).toBe(0x83)
    expect(head.readUInt32LE(446 + 8)).toBe(2048)
    expect(head.readUInt32LE(446 + 12)).toBe(512 * 2048 - 2048)
    expect(head.subarray(462, 510).every((byte) => byte === 0)).toBe(true)
  })

  test("has GRUB's core behind it, and an empty line of arguments last", () => {
    expect(head.subarray(512, 1024).some((byte) => byte !== 0)).toBe(true)
    expect(head.subarray(ARGUMENTS_OFFSET)).toEqual(argumentsSector(''))
  })

  test("differs from that of GRUB's own ATA driver in boot code and core only", async () => {
    const ata = await readFile(guest.ataBootArea)
    expect(ata.subarray(0, 512)).toEqual(head.subarray(0, 512))
    expect(ata.subarray(512, ARGUMENTS_OFFSET)).not.toEqual(head.subarray(512, ARGUMENTS_OFFSET))
  })

  test.skipIf(lacks('e2fsck'))('has a clean ext4 file system', async () => {
    await run('e2fsck', ['-f', '-n', `${guest.disk}?offset=${PARTITION_BYTES}`])
  })

  test.skipIf(lacks('debugfs'))('has what a root needs, owned by root', async () => {
    const show = (command: string) => runTool('debugfs', '-R', command, `${guest.disk}?offset=${PARTITION_BYTES}`)
    for (const path of ['/boot/vmlinuz', '/boot/initrd.img', '/usr/bin/fio', '/usr/sbin/hdparm', '/etc/inittab']) {
      const facts = await show(`stat ${path}`)
      expect(facts, path).toMatch(/Type: regular/)
      expect(facts, path).toMatch(/User: +0 +Group: +0/)
    }
    expect(await show('stat /usr/sbin/init')).toContain('Fast link dest: "../bin/busybox"')
    expect(await show('cat /boot/grub/grub.cfg')).toContain(guest.append)
  })
})

test('the CD-ROM is ISO 9660 with an El Torito record, and holds the pattern', async () => {
  const image = await readFile(guest.cd)
  expect(image.toString('latin1', 0x8001, 0x8006)).toBe('CD001')
  expect(image.toString('latin1', 0x8807, 0x8807 + 23)).toBe('EL TORITO SPECIFICATION')
  const bytes = cdPattern()
  const at = image.indexOf(bytes.subarray(0, 32))
  expect(at % 2048).toBe(0)
  expect(image.subarray(at, at + bytes.length).equals(bytes), CD_PATTERN_PATH).toBe(true)
})

/** The pieces of the Debian guest that are made without Debian: archive, modules, boot sector text, applets. */
import { describe, expect, test } from 'vitest'
import { cpio } from '../../../guests/debian/cpio.ts'
import { argumentsSector } from '../../../guests/debian/grub.ts'
import { moduleClosure, moduleName, withoutSignature } from '../../../guests/debian/modules.ts'
import { appletNames } from '../../../guests/debian/rootfs.ts'

describe('cpio, "newc" format', () => {
  const archive = cpio([
    { kind: 'folder', path: 'dev' },
    { kind: 'character', path: 'dev/console', major: 5, minor: 1 },
    { kind: 'file', path: 'init', data: 'hello', executable: true },
    { kind: 'link', path: 'sh', target: 'init' },
  ])

  /** The entries of an archive: its path, mode, contents, and the major and minor number of the device that it is. */
  function* entries(): Iterable<readonly [string, string, string, number, number]> {
    for (let at = 0; at < archive.length; ) {
      expect(archive.toString('latin1', at, at + 6)).toBe('070701')
      const field = (index: number) =>
        Number.parseInt(archive.toString('latin1', at + 6 + index * 8, at + 14 + index * 8), 16)
      const path = archive.toString('latin1', at + 110, at + 110 + field(11) - 1)
      const start = at + ((110 + field(11) + 3) & ~3)
      yield [path, field(1).toString(8), archive.toString('latin1', start, start + field(6)), field(9), field(10)]
      at = start + ((field(6) + 3) & ~3)
    }
  }

  test('each entry, then the trailer', () => {
    expect([...entries()]).toEqual([
      ['dev', '40755', '', 0, 0],
      ['dev/console', '20600', '', 5, 1],
      ['init', '100755', 'hello', 0, 0],
      ['sh', '120777', 'init', 0, 0],
      ['TRAILER!!!', '0', '', 0, 0],
    ])
  })

  test('everything begins at a multiple of four bytes', () => {
    expect(archive.length % 4).toBe(0)
  })
})

describe('modules', () => {
  const dep = `kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko kernel/lib/crc16.ko
kernel/fs/jbd2/jbd2.ko: kernel/lib/crc16.ko
kernel/lib/crc16.ko:
kernel/drivers/block/virtio-blk.ko:
`
  test('come with what they need, which comes first and once', () => {
    expect(moduleClosure(dep, ['ext4', 'jbd2', 'virtio_blk'])).toEqual([
      'kernel/lib/crc16.ko',
      'kernel/fs/jbd2/jbd2.ko',
      'kernel/fs/ext4/ext4.ko',
      'kernel/drivers/block/virtio-blk.ko',
    ])
  })

  test('an unknown one is refused by name', () => {
    expect(() => moduleClosure(dep, ['btrfs'])).toThrow('The kernel has no module btrfs')
  })

  test('are named as the kernel spells them', () => {
    expect(moduleName('kernel/crypto/crc-t10dif.ko.xz')).toBe('crc_t10dif')
  })

  test('lose their signature: 3 bytes of it, its 12 bytes of facts, and the mark', () => {
    const code = Buffer.from('code')
    const facts = Buffer.alloc(12)
    facts.writeUInt32BE(3, 8)
    const signed = Buffer.concat([code, Buffer.from('sig'), facts, Buffer.from('~Module signature appended~\n')])
    expect(withoutSignature(signed)).toEqual(code)
    expect(withoutSignature(code)).toEqual(code)
  })
})

describe('kernel arguments for GRUB', () => {
  test('fill one sector with a line of its script and empty lines', () => {
    const sector = argumentsSector('drivers=ata_generic')
    expect(sector.length).toBe(512)
    expect(sector.toString().trimEnd()).toBe("set arguments='drivers=ata_generic'")
  })

  test.each(["a'b", 'a\nb', 'ä'])('%j would end the quotes or the line', (text) => {
    expect(() => argumentsSector(text)).toThrow('printable ASCII')
  })

  test('too long ones are refused', () => {
    expect(() => argumentsSector('x'.repeat(500))).toThrow('do not fit')
  })
})

test("busybox's applets are read out of the program", () => {
  const program = Buffer.from('code\0[\0[[\0acpid\0zcat\0\0more code', 'latin1')
  expect(appletNames(program)).toEqual(['[', '[[', 'acpid', 'zcat'])
  expect(() => appletNames(Buffer.from('no busybox'))).toThrow('no table of applets')
})

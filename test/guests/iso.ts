/** A small ISO 9660 image of a few files in one folder (ECMA-119, level 1), for drives that need a disc. */

const SECTOR = 2048
const SYSTEM_AREA = 16
const PRIMARY = SYSTEM_AREA
const TERMINATOR = PRIMARY + 1
const ROOT = TERMINATOR + 1
const FIRST_FILE = ROOT + 1

/** Both byte orders, one after the other (7.3.3). */
function both32(view: DataView, at: number, value: number): void {
  view.setUint32(at, value, true)
  view.setUint32(at + 4, value, false)
}

function both16(view: DataView, at: number, value: number): void {
  view.setUint16(at, value, true)
  view.setUint16(at + 2, value, false)
}

/** A directory record (9.1); `name` may be the byte 0 or 1 of "." and "..". */
function record(name: string, sector: number, length: number, folder: boolean): Uint8Array {
  const size = 33 + name.length + (name.length % 2 === 0 ? 1 : 0)
  const bytes = new Uint8Array(size)
  const view = new DataView(bytes.buffer)
  bytes[0] = size
  both32(view, 2, sector)
  both32(view, 10, length)
  bytes.set([126, 1, 1, 0, 0, 0, 0], 18)
  bytes[25] = folder ? 2 : 0
  both16(view, 28, 1)
  bytes[32] = name.length
  for (let i = 0; i < name.length; i++) bytes[33 + i] = name.charCodeAt(i)
  return bytes
}

/** The image; names are 8.3 in capitals, contents any bytes. */
export function iso(volume: string, files: Readonly<Record<string, Uint8Array>>): Uint8Array {
  let sector = FIRST_FILE
  const placed = Object.entries(files).map(([name, content]) => {
    const at = sector
    sector += Math.ceil(content.length / SECTOR)
    return { name, content, at }
  })
  const image = new Uint8Array(sector * SECTOR)
  const root = [record('\0', ROOT, SECTOR, true), record('\u0001', ROOT, SECTOR, true)]
  for (const { name, content, at } of placed) {
    image.set(content, at * SECTOR)
    root.push(record(`${name};1`, at, content.length, false))
  }
  let at = ROOT * SECTOR
  for (const one of root) {
    image.set(one, at)
    at += one.length
  }
  const text = (place: number, length: number, value: string) => {
    for (let i = 0; i < length; i++) image[PRIMARY * SECTOR + place + i] = i < value.length ? value.charCodeAt(i) : 0x20
  }
  const view = new DataView(image.buffer, PRIMARY * SECTOR, SECTOR)
  view.setUint8(0, 1)
  text(1, 5, 'CD001')
  view.setUint8(6, 1)
  text(8, 32, '')
  text(40, 32, volume)
  both32(view, 80, sector)
  both16(view, 120, 1)
  both16(view, 124, 1)
  both16(view, 128, SECTOR)
  image.set(record('\0', ROOT, SECTOR, true), PRIMARY * SECTOR + 156)
  view.setUint8(881, 1)
  image.set([255, 0x43, 0x44, 0x30, 0x30, 0x31, 1], TERMINATOR * SECTOR)
  return image
}

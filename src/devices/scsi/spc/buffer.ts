/** READ BUFFER and WRITE BUFFER (SPC-4 6.19, 6.53): a memory of the unit for testing the way to it. */
import { type CommandSpec, u24 } from '../command.ts'
import { CheckCondition, COMMAND_SEQUENCE_ERROR, invalidCdb } from '../sense.ts'
import type { Task } from '../task.ts'

/** Bytes of buffer 0. */
export const BUFFER_LENGTH = 65536
/** Bytes of the echo buffer. */
export const ECHO_LENGTH = 4096

// SPC-4 tables 203 and 258: modes
const COMBINED = 0x00
const DATA = 0x02
const DESCRIPTOR = 0x03
const ECHO = 0x0a
const ECHO_DESCRIPTOR = 0x0b

/** READ BUFFER(10) and WRITE BUFFER of one unit. */
export function bufferCommands(): CommandSpec[] {
  let buffer: Uint8Array | undefined
  const echoes = new Map<number, Uint8Array>()

  const read = (task: Task): void => {
    const { cdb } = task
    const id = cdb[2]!
    const offset = u24(cdb, 3)
    const allocation = u24(cdb, 6)
    switch (cdb[1]! & 0x1f) {
      case COMBINED: {
        if (id !== 0) throw invalidCdb(2, 7)
        if (offset !== 0) throw invalidCdb(3, 7)
        const bytes = new Uint8Array(4 + BUFFER_LENGTH)
        new DataView(bytes.buffer).setUint32(0, BUFFER_LENGTH)
        if (buffer) bytes.set(buffer, 4)
        task.reply(bytes, allocation)
        return
      }
      case DATA:
        if (id !== 0) throw invalidCdb(2, 7)
        if (offset > BUFFER_LENGTH) throw invalidCdb(3, 7)
        task.reply((buffer ?? new Uint8Array(BUFFER_LENGTH)).slice(offset), allocation)
        return
      case DESCRIPTOR:
        // Buffer 0 at byte addresses; there is no other
        if (id !== 0) task.reply(new Uint8Array(4), allocation)
        else
          task.reply(
            Uint8Array.of(0, BUFFER_LENGTH >>> 16, (BUFFER_LENGTH >>> 8) & 0xff, BUFFER_LENGTH & 0xff),
            allocation,
          )
        return
      case ECHO: {
        const echo = echoes.get(task.command.initiator)
        if (echo === undefined) throw new CheckCondition(COMMAND_SEQUENCE_ERROR)
        task.reply(echo, allocation)
        return
      }
      case ECHO_DESCRIPTOR:
        task.reply(Uint8Array.of(0, 0, ECHO_LENGTH >>> 8, ECHO_LENGTH & 0xff), allocation)
        return
      default:
        throw invalidCdb(1, 4)
    }
  }

  const write = (task: Task): void => {
    const { cdb } = task
    const id = cdb[2]!
    const offset = u24(cdb, 3)
    const length = u24(cdb, 6)
    const mode = cdb[1]! & 0x1f
    if (mode !== COMBINED && mode !== DATA && mode !== ECHO) throw invalidCdb(1, 4)
    if (mode === ECHO) {
      if (length > ECHO_LENGTH) throw invalidCdb(6, 7)
      task.receive(length, (bytes) => {
        echoes.set(task.command.initiator, bytes)
      })
      return
    }
    const header = mode === COMBINED ? 4 : 0
    if (id !== 0) throw invalidCdb(2, 7)
    if (mode === COMBINED && offset !== 0) throw invalidCdb(3, 7)
    if (offset > BUFFER_LENGTH) throw invalidCdb(3, 7)
    if (offset + length - header > BUFFER_LENGTH) throw invalidCdb(6, 7)
    task.receive(length, (bytes) => {
      buffer ??= new Uint8Array(BUFFER_LENGTH)
      if (bytes.length > header) buffer.set(bytes.subarray(header), offset)
    })
  }

  return [
    { name: 'WRITE BUFFER', opcode: 0x3b, usage: '3b 1f ff ff ff ff ff ff ff 00', access: 'own', run: write },
    { name: 'READ BUFFER', opcode: 0x3c, usage: '3c 1f ff ff ff ff ff ff ff 00', access: 'own', run: read },
  ]
}

package postgres

import (
	"encoding/binary"

	"github.com/jackc/pgproto3/v2"
)

// encode appends a message that this package built itself; those are small,
// which is the only way in which an encoder can fail.
func encode(dst []byte, m interface {
	Encode(dst []byte) ([]byte, error)
},
) []byte {
	out, err := m.Encode(dst)
	if err != nil {
		panic("postgres: a message of our own does not encode: " + err.Error())
	}
	return out
}

// patchLength writes the length of the message that begins at start.
func patchLength(dst []byte, start int) []byte {
	binary.BigEndian.PutUint32(dst[start+1:], uint32(len(dst)-start-1))
	return dst
}

func appendMessage(dst []byte, t byte, body []byte) []byte {
	dst = append(dst, t)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(body)+4))
	return append(dst, body...)
}

func appendReady(dst []byte, status byte) []byte {
	return encode(dst, &pgproto3.ReadyForQuery{TxStatus: status})
}

func appendParse(dst []byte, name, text string) []byte {
	return encode(dst, &pgproto3.Parse{Name: name, Query: text})
}

func appendQuery(dst []byte, text string) []byte {
	return encode(dst, &pgproto3.Query{String: text})
}

// cancelRequest is a CancelRequest with a key of any length, which
// pgproto3/v2 does not know.
func cancelRequest(pid uint32, key []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(12+len(key)))
	b = binary.BigEndian.AppendUint32(b, codeCancel)
	b = binary.BigEndian.AppendUint32(b, pid)
	return append(b, key...)
}

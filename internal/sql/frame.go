package sql

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The protocol between Classifier and worker. Each side writes frames: a
// length, 32 bits big endian, and that many bytes. The worker reads a statement
// text from its standard input and writes one answer to its standard output: a
// byte that says which, and
//
//	answerStatement  the encoded Statement
//	answerSyntax     the position as an unsigned varint, and the message
//	answerFailed     nothing; the text could not be analysed
//	answerSample     a Sample, to a text with sampleMark before it: the number of
//	                 its parameters and each of their numbers as unsigned varints,
//	                 and the query; nothing when there is none
//
// It ends at the end of its input.
const (
	answerStatement = 'S'
	answerSyntax    = 'E'
	answerFailed    = 'F'
	answerSample    = 'P'
)

const (
	// MaxText is the longest statement, in bytes. Longer ones are data, and
	// belong in COPY or in parameters.
	MaxText = 1 << 20
	// maxAnswer bounds an answer. The analysis bounds names and effects, and
	// this is far above what those come to for statements people write.
	maxAnswer = 4 << 20
	// maxMessage bounds a message of the grammar, which quotes the text.
	maxMessage = 300
)

var errFrame = errors.New("frame is longer than allowed")

func readFrame(r io.Reader, limit int) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if int64(n) > int64(limit) {
		return nil, errFrame
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("frame cut short: %w", err)
	}
	return b, nil
}

func writeFrame(w io.Writer, parts ...[]byte) error {
	b := make([]byte, 4)
	for _, p := range parts {
		b = append(b, p...)
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	_, err := w.Write(b)
	return err
}

// Serve is the worker's loop: it answers statements until the input ends.
// before is called ahead of each.
func Serve(in io.Reader, out io.Writer, before func(), analyze func(text string) (*Statement, error), sample func(text string) (*Sample, error)) error {
	r := bufio.NewReader(in)
	for {
		text, err := readFrame(r, 1+MaxText)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		before()
		var b []byte
		if len(text) > 0 && text[0] == sampleMark {
			s, err := sample(string(text[1:]))
			b = answerOf(s, err)
		} else {
			s, err := analyze(string(text))
			b = answer(s, err)
		}
		if err := writeFrame(out, b); err != nil {
			return err
		}
	}
}

func answer(s *Statement, err error) []byte {
	var syntax *ErrSyntax
	switch {
	case errors.As(err, &syntax):
		message := syntax.Message
		if len(message) > maxMessage {
			message = message[:maxMessage] + "…"
		}
		return append(binary.AppendUvarint([]byte{answerSyntax}, uint64(syntax.Position)), message...)
	case err != nil:
		return []byte{answerFailed}
	}
	b := s.Append([]byte{answerStatement})
	if len(b) > maxAnswer {
		return []byte{answerFailed}
	}
	return b
}

func answerOf(s *Sample, err error) []byte {
	switch {
	case err != nil:
		return answer(nil, err)
	case s == nil:
		return []byte{answerSample}
	}
	return s.append([]byte{answerSample})
}

// parseAnswer is the other end of answer and of answerOf.
func parseAnswer(b []byte, sample bool) (r result) {
	r.size = len(b)
	switch {
	case len(b) == 0, sample && b[0] == answerStatement, !sample && b[0] == answerSample:
		r.err = errEncoding
	case b[0] == answerSample && len(b) == 1:
	case b[0] == answerSample:
		r.sample, r.err = decodeSample(b[1:])
	default:
		r.statement, r.err = parseStatement(b)
	}
	return r
}

func parseStatement(b []byte) (*Statement, error) {
	switch body := b[1:]; b[0] {
	case answerStatement:
		return Decode(body)
	case answerSyntax:
		d := decoding{b: body}
		position := d.small()
		if d.bad {
			return nil, errEncoding
		}
		return nil, &ErrSyntax{Message: printable(string(d.b)), Position: position}
	case answerFailed:
		return nil, ErrWorker
	}
	return nil, errEncoding
}

// printable keeps what a message quotes from breaking out of a line.
func printable(s string) string {
	out := []rune(s)
	for i, r := range out {
		if r < ' ' || r == 0x7f {
			out[i] = ' '
		}
	}
	return string(out)
}

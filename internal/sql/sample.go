package sql

import (
	"context"
	"encoding/binary"
)

// Sample is a query for some of the rows that an UPDATE or a DELETE is about to
// change.
type Sample struct {
	Query  string
	Params []int // the numbers, in the statement, of what is $1, $2, … in Query
}

const (
	// sampleMark before a text asks for its Sample. No statement begins with it.
	sampleMark = '\x00'
	// SampleRows is how many rows a Sample has at most: as many as a person looks at.
	SampleRows = 5
)

// Sample returns the query for a sample of what a text is about to change, nil
// when there is none. It may wait for a worker, and is not remembered: its text
// holds the statement's constants.
func (c *Classifier) Sample(ctx context.Context, text string) (*Sample, error) {
	if err := legible(text); err != nil {
		return nil, err
	}
	marked := string(sampleMark) + text
	if _, bad := c.cache.get(marked, c.now); bad {
		c.refused.Add(1)
		return nil, ErrWorker
	}
	r := c.submit(ctx, marked)
	return r.sample, r.err
}

func (s *Sample) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(s.Params)))
	for _, n := range s.Params {
		b = binary.AppendUvarint(b, uint64(n))
	}
	return append(b, s.Query...)
}

// maxSampleParams is PostgreSQL's own limit of parameters.
const maxSampleParams = 65535

func decodeSample(b []byte) (*Sample, error) {
	d := decoding{b: b}
	n := d.small()
	if d.bad || n > maxSampleParams || n > len(d.b) {
		return nil, errEncoding
	}
	s := &Sample{}
	for range n {
		s.Params = append(s.Params, d.small())
	}
	if d.bad {
		return nil, errEncoding
	}
	s.Query = string(d.b)
	return s, nil
}

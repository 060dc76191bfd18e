package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// work is a text as values, and as large pieces of them.
type work struct {
	name   string
	finds  bool // there is something to find
	values [][]byte
	chunks []string
	size   int
}

const (
	workSize  = 1 << 20
	chunkSize = 64 << 10
)

func works() []work {
	return []work{
		made("text", false, text),
		made("rows", false, func(r *rand.Rand) string { return row(r, plain) }),
		made("rows-masked", true, func(r *rand.Rand) string { return row(r, oneInTen) }),
	}
}

// made makes a work of lines, whose values are parted by tabs.
func made(name string, finds bool, line func(*rand.Rand) string) work {
	r := rand.New(rand.NewPCG(1, uint64(len(name)))) //nolint:gosec // The same each time.
	w := work{name: name, finds: finds}
	var chunk strings.Builder
	for w.size < workSize {
		l := line(r)
		for v := range strings.SplitSeq(l, "\t") {
			w.values = append(w.values, []byte(v))
			w.size += len(v)
		}
		chunk.WriteString(l + "\n")
		if chunk.Len() >= chunkSize {
			w.chunks = append(w.chunks, chunk.String())
			chunk.Reset()
		}
	}
	if chunk.Len() > 0 {
		w.chunks = append(w.chunks, chunk.String())
	}
	return w
}

var words = strings.Fields(`the order was shipped on time and customer happy about it we will call again when parcel arrives please
leave at the neighbour if nobody is home thank you for your patience with this delivery Our warehouse in Hamburg has moved and some
articles are late The invoice follows by mail as soon as the goods have left Payment within thirty days net no discount Subject to
change without notice see terms A replacement was offered but not accepted so the case is closed for now Signed by the manager`)

func sentence(r *rand.Rand, n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteString([]string{" ", " ", " ", " ", " ", ", ", ". ", " - "}[r.IntN(8)])
		}
		b.WriteString(words[r.IntN(len(words))])
	}
	return b.String() + "."
}

// text is a note, a line of a log, or a document.
func text(r *rand.Rand) string {
	switch r.IntN(4) {
	case 0:
		return fmt.Sprintf("2026-0%d-1%d 0%d:%02d:%02d.%03d INFO [worker-%d] order-service: processed order %d in %d ms, state=%s path=/api/v1/orders/%d status=200",
			1+r.IntN(9), r.IntN(10), r.IntN(10), r.IntN(60), r.IntN(60), r.IntN(1000), r.IntN(16), r.IntN(100000), r.IntN(500), "shipped", r.IntN(100000))
	case 1:
		return fmt.Sprintf(`{"id": %d, "title": "%s", "tags": ["%s", "%s"], "price": %d.%02d, "available": true, "dimensions": {"width": %d, "height": %d}}`,
			r.IntN(100000), sentence(r, 5), words[r.IntN(len(words))], words[r.IntN(len(words))], r.IntN(100), r.IntN(100), r.IntN(200), r.IntN(200))
	}
	return sentence(r, 20+r.IntN(60))
}

// row has ten columns.
func row(r *rand.Rand, note func(*rand.Rand) string) string {
	u := fmt.Sprintf("%016x%016x", r.Uint64(), r.Uint64())
	return strings.Join([]string{
		fmt.Sprint(r.IntN(1000000)), fmt.Sprintf("2026-%02d-%02d %02d:%02d:%02d.%06d+00", 1+r.IntN(12), 1+r.IntN(28), r.IntN(24), r.IntN(60), r.IntN(60), r.IntN(1000000)),
		fmt.Sprintf("%s-%s-4%s-a%s-%s", u[:8], u[8:12], u[13:16], u[17:20], u[20:]),
		[]string{"new", "paid", "shipped", "returned"}[r.IntN(4)], fmt.Sprintf("%d.%02d", r.IntN(1000), r.IntN(100)),
		note(r), sentence(r, 3+r.IntN(8)), fmt.Sprintf("SKU-%05d", r.IntN(100000)), "t", sentence(r, 2),
	}, "\t")
}

func plain(r *rand.Rand) string { return sentence(r, 4) }

// oneInTen is the column of ten in which there is something.
func oneInTen(r *rand.Rand) string {
	const alphabet = "aB3dE5fG7hJ9kL1mN2pQ4rS6tU8vW0xY2zA4bC6d"
	switch r.IntN(6) {
	case 0:
		return fmt.Sprintf("+49 30 %07d", 1000000+r.IntN(8999999))
	case 1:
		return []string{"4111 1111 1111 1111", "5500000000000004", "378282246310005"}[r.IntN(3)]
	case 2:
		return []string{"DE89370400440532013000", "GB29 NWBK 6016 1331 9268 19"}[r.IntN(2)]
	case 3:
		return "glpat-" + alphabet[r.IntN(10):][:20]
	}
	return fmt.Sprintf("%s.%d@example.org", strings.ToLower(words[r.IntN(len(words))]), r.IntN(1000))
}

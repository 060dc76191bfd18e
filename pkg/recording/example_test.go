package recording_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"

	"github.com/postern/postern/pkg/recording"
)

// The newest session of an agent, and what it asked for.
func ExampleSessions() {
	for s, err := range recording.Sessions("testdata/v1", recording.Filter{Agent: "planner"}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(s.Session, s.Target, s.How, s.Events)
	}
	// Output:
	// s2 orders closed 12
	// s1 orders closed 12
}

func ExampleReader_Next() {
	r, err := recording.Open("testdata/v1/2026/03/14/s1.rec")
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
	for {
		ev, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			log.Fatal(err) // a *BrokenError says from where on
		}
		switch b := ev.Body.(type) {
		case *recording.Request:
			fmt.Printf("%d %s, %d parameters\n", b.ID, b.Form, len(b.Params))
		case *recording.Rows:
			for values := range b.All() {
				fmt.Printf("%q\n", values)
			}
		case *recording.Denial:
			fmt.Println("denied by", b.Rule)
		}
	}
	// Output:
	// 1 query, 2 parameters
	// ["a" ""]
	// ["a" ""]
	// denied by no-ddl
}

// Keep Report.Head elsewhere: it tells a directory that was replaced as a whole.
func ExampleVerify() {
	report, err := recording.Verify("testdata/v1")
	if err != nil {
		log.Fatal(err)
	}
	for _, p := range report.Problems {
		fmt.Println(p)
	}
	fmt.Println(report.OK(), report.Sessions, "sessions, head", report.Head.String()[:16])
	// Output: true 2 sessions, head d90980fa86c494fe
}

// A replay at a thousand times the pace.
func ExamplePlay() {
	r, err := recording.Open("testdata/v1/2026/03/14/s1.rec")
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
	err = recording.Play(context.Background(), r, recording.Pace{Speed: 1000}, func(ev recording.Event) error {
		fmt.Print(ev.Body.Kind(), " ")
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: opened intent upstream request verdict approval fields rows data denial outcome end
}

package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"kith/internal/yamlfile"
	"kith/proto"
	"kith/segments"
)

func newSegmentsCommand(c *connection) *cobra.Command {
	cmd := asGroup(&cobra.Command{
		Use:     "segments",
		Short:   "Define and list segments",
		Example: "  kith segments apply -f segments.yaml --key demo-key\n  kith segments list --key demo-key",
	})
	cmd.AddCommand(newSegmentsApplyCommand(c), newSegmentsListCommand(c), newSegmentsShowCommand(c),
		newSegmentsDeleteCommand(c), newSegmentsBackfillCommand(c), newSegmentsSizesCommand(c))
	return cmd
}

func segmentPath(id string) string { return "/v1/segments/" + url.PathEscape(id) }

// segmentSource is one segment of a file.
type segmentSource struct {
	ID       string `yaml:"id" json:"-"`
	Scope    string `yaml:"scope" json:"scope,omitempty"`
	When     string `yaml:"when" json:"when"`
	Backfill bool   `yaml:"backfill" json:"backfill"`
	line     int    // of its rule
}

func newSegmentsApplyCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Define the segments of a YAML file",
		Long: `Defines or replaces the segments of a file; segments that it does not name stay as
they are. One with backfill that replaces another is filled beside it and answers
after that. One without answers at once, begins empty, and takes in identities as
they are next seen: its counts are not exact until history has been gone through,
for it (kith segments backfill) or for another segment. One whose rule names another
by member() may stand before it; --dry-run judges each by itself, with the others as
they answer now. The file:

  segments:
    - id: auto
      scope: identity        # or user
      when: count(event.section == "auto", "30d") >= 3
      backfill: true         # evaluate over the history that is there`,
		Example: "  kith segments apply -f segments.yaml --key demo-key\n  kith segments apply -f segments.yaml --wait --key demo-key\n  kith segments apply -f segments.yaml --dry-run --key demo-key\n  kith segments apply -f - --client demo --key dev-admin-key <segments.yaml",
		Args:    noArgs,
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	var file string
	fileFlag(cmd, &file, "file", "f", "YAML `FILE`, or - for standard input")
	wait := cmd.Flags().Bool("wait", false, "return when what has backfill is filled and answers")
	dryRun := cmd.Flags().Bool("dry-run", false, "tell who would enter and leave, and change nothing")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if file == "" {
			return usagef("name a file of segments: -f FILE")
		}
		sources, err := readSegments(cmd, file)
		if err != nil {
			return err
		}
		if *dryRun {
			return previewSegments(cmd, c, file, sources, *asJSON)
		}
		return applySegments(cmd, c, file, sources, *wait, *asJSON)
	}
	return cmd
}

func applySegments(cmd *cobra.Command, c *connection, file string, sources []segmentSource, wait, asJSON bool) error {
	defined := []proto.SegmentSpec{}
	for _, s := range sources {
		var out proto.SegmentSpec
		if err := c.call(cmd.Context(), http.MethodPut, segmentPath(s.ID), nil, s, &out); err != nil {
			return fmt.Errorf("%s:%d: segment %s: %w", file, s.line, s.ID, err)
		}
		defined = append(defined, out)
		if !asJSON {
			printf(cmd, "%s\n", definedText(out))
		}
	}
	if wait {
		if err := waitAllFilled(cmd, c, sources, defined); err != nil {
			return err
		}
		for i := range defined {
			if sources[i].Backfill && !asJSON {
				printf(cmd, "%s\n", filledText(defined[i]))
			}
		}
	}
	if asJSON {
		return printJSON(cmd, map[string]any{"segments": defined})
	}
	return nil
}

// waitAllFilled waits for the segments of a file that have backfill; nothing goes
// through history for the others. What refers to another by member() is gone through
// again once that answers: so they are asked until none had to be waited for.
func waitAllFilled(cmd *cobra.Command, c *connection, sources []segmentSource, defined []proto.SegmentSpec) error {
	for again := true; again; {
		again = false
		for i := range defined {
			if !sources[i].Backfill {
				continue
			}
			s, err := segmentOf(cmd, c, sources[i].ID)
			if err != nil {
				return err
			}
			if _, done := filling(s); !done {
				again = true
				if s, err = waitFilled(cmd, c, sources[i].ID, s); err != nil {
					return err
				}
			}
			defined[i] = s
		}
	}
	return nil
}

func segmentOf(cmd *cobra.Command, c *connection, id string) (s proto.SegmentSpec, err error) {
	err = c.call(cmd.Context(), http.MethodGet, segmentPath(id), nil, nil, &s)
	return s, err
}

func filledText(s proto.SegmentSpec) string {
	return fmt.Sprintf("%s is filled; size %s", s.ID, sizeOf(s))
}

func definedText(s proto.SegmentSpec) string {
	if s.Next == nil {
		return fmt.Sprintf("defined %s", s.ID)
	}
	return fmt.Sprintf("defined %s: the new version answers once it is filled, until then the one before", s.ID)
}

// previewSegments tells what a file would change, each segment by itself. A rule that
// names one of the file which is not defined yet cannot be judged before that is.
func previewSegments(cmd *cobra.Command, c *connection, file string, sources []segmentSource, asJSON bool) error {
	previews, unjudged := []proto.SegmentPreview{}, []string{}
	for i, s := range sources {
		var p proto.SegmentPreview
		err := c.call(cmd.Context(), http.MethodPut, segmentPath(s.ID), url.Values{"dry_run": {"true"}}, s, &p)
		if proto.CodeOf(err) == proto.CodeRule && c.lacksOnly(cmd, s, sources[:i]) {
			if unjudged = append(unjudged, s.ID); !asJSON {
				printf(cmd, "%s: refers to a segment of the file that is not defined yet, and cannot be judged before\n", s.ID)
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("%s:%d: segment %s: %w", file, s.line, s.ID, err)
		}
		previews = append(previews, p)
		if !asJSON {
			printf(cmd, "%s\n", previewText(p))
		}
	}
	if asJSON {
		return printJSON(cmd, map[string]any{"previews": previews, "unjudged": unjudged})
	}
	return nil
}

// lacksOnly reports whether what is not defined of what the rule of s refers to is among
// others, and there is such a segment.
func (c *connection) lacksOnly(cmd *cobra.Command, s segmentSource, others []segmentSource) (lacks bool) {
	for _, id := range refersOf(s) {
		if _, err := segmentOf(cmd, c, string(id)); err == nil {
			continue
		}
		if !slices.ContainsFunc(others, func(o segmentSource) bool { return o.ID == string(id) }) {
			return false
		}
		lacks = true
	}
	return lacks
}

// refersOf are the segments that a rule refers to; of one that does not parse none.
func refersOf(s segmentSource) []proto.SegmentID {
	rule, err := segments.Compile(s.When)
	if err != nil {
		return nil
	}
	return rule.Refers()
}

// previewText is what a file would change of a segment. A number that is missing is
// under the floor, or would tell of one that is.
func previewText(p proto.SegmentPreview) string {
	number := func(n *uint64) string {
		if n == nil {
			return "not told"
		}
		return strconv.FormatUint(*n, 10)
	}
	text := fmt.Sprintf("%s: %s in, %s after; %s would enter, %s leave", p.ID, number(p.Before), number(p.After), number(p.Entering), number(p.Leaving))
	if p.Below > 0 {
		text += fmt.Sprintf(" (numbers under %d are not told, nor what they follow from)", p.Below)
	}
	if !p.Exact {
		text += fmt.Sprintf(" (estimated from %d of %s)", p.Judged, number(p.Identities))
	}
	return text
}

// segmentsFileMax bounds a file of segments.
const segmentsFileMax = 16 << 20

func readSegments(cmd *cobra.Command, file string) ([]segmentSource, error) {
	var b []byte
	var err error
	if file == "-" {
		b, err = readBounded(cmd.InOrStdin(), segmentsFileMax)
	} else if f, openErr := os.Open(file); openErr != nil {
		err = openErr
	} else {
		b, err = readBounded(f, segmentsFileMax)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return nil, proto.Errorf(proto.CodeNotFound, "cannot read %s: %w", file, err)
	}
	return parseSegments(file, b)
}

func parseSegments(file string, b []byte) ([]segmentSource, error) {
	var doc struct {
		Segments []segmentSource `yaml:"segments"`
	}
	tree, err := yamlfile.Decode(b, &doc, "`kith segments apply --help` shows the form")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if len(doc.Segments) == 0 {
		return nil, proto.Errorf(proto.CodeInvalid, "%s defines no segments: see kith segments apply --help for its form", file)
	}
	lines := map[string]int{}
	for i := range doc.Segments {
		s := &doc.Segments[i]
		s.line, _ = tree.Position(fmt.Sprintf("$.segments[%d].when", i))
		if _, err := proto.ParseSegmentID(s.ID); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, s.line, err)
		}
		s.When = strings.TrimSpace(s.When)
		if line, is := lines[s.ID]; is {
			return nil, proto.Errorf(proto.CodeInvalid, "%s:%d: segment %s is in the file already, at line %d: leave one of them out, nothing was changed", file, s.line, s.ID, line)
		}
		lines[s.ID] = s.line
	}
	return inOrder(doc.Segments), nil
}

// inOrder puts each segment of a file behind those of it that its rule refers to, and
// leaves them in the file's order otherwise. Rules that do not parse, or refer to one
// another in a circle, are for the node to refuse.
func inOrder(sources []segmentSource) []segmentSource {
	at := map[proto.SegmentID]int{}
	for i := range sources {
		at[proto.SegmentID(sources[i].ID)] = i
	}
	out := make([]segmentSource, 0, len(sources))
	seen := make([]bool, len(sources))
	var take func(int)
	take = func(i int) {
		if seen[i] {
			return
		}
		seen[i] = true
		for _, id := range refersOf(sources[i]) {
			if k, is := at[id]; is {
				take(k)
			}
		}
		out = append(out, sources[i])
	}
	for i := range sources {
		take(i)
	}
	return out
}

func newSegmentsListCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "All segments of the client",
		Example: "  kith segments list --key demo-key --json",
		Args:    noArgs,
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var out struct {
			Segments []proto.SegmentSpec `json:"segments"`
		}
		r, err := c.request(cmd.Context(), http.MethodGet, "/v1/segments", nil, nil)
		if err != nil {
			return err
		}
		if err := c.sendFor(r, &out, segmentsBytesMax); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd, out)
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "ID\tSCOPE\tSIZE\tCOST\tWHEN")
		for _, s := range out.Segments {
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", s.ID, s.Scope, sizeOf(s), s.Cost, s.When)
		}
		return w.Flush()
	}
	return cmd
}

// sizeOf is a segment's size as people read it. A definition that was only just
// made has none.
func sizeOf(s proto.SegmentSpec) string {
	if s.Size == nil && s.Below == 0 {
		return "-"
	}
	return countOf(s.Size, s.Below)
}

func newSegmentsShowCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "show ID",
		Short:   "One segment",
		Example: "  kith segments show auto --key demo-key",
		Args:    exactly(1, "a segment's id"),
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var s proto.SegmentSpec
		if err := c.call(cmd.Context(), http.MethodGet, segmentPath(args[0]), nil, nil, &s); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd, s)
		}
		printf(cmd, "id:      %s\nscope:   %s\nwhen:    %s\nsize:    %s\ncost:    %d\nversion: %d\n", s.ID, s.Scope, s.When, sizeOf(s), s.Cost, s.Version)
		if s.Filled != nil && !*s.Filled {
			printf(cmd, "filled:  %s\n", unfilledText(s))
		}
		if n := s.Next; n != nil {
			printf(cmd, "next:    %s (scope %s, version %d): answers once it is filled%s\n", n.When, n.Scope, n.Version, percentOf(&n.Progress))
		}
		return nil
	}
	return cmd
}

// unfilledText says why a segment is not filled.
func unfilledText(s proto.SegmentSpec) string {
	if !s.Backfill && s.Progress != nil && *s.Progress == 0 {
		return fmt.Sprintf("no: it was defined without backfill and has those seen since: kith segments backfill %s", s.ID)
	}
	return "not yet: history is being gone through" + percentOf(s.Progress)
}

func newSegmentsDeleteCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "delete ID",
		Short:   "Drop a segment",
		Example: "  kith segments delete auto --key demo-key",
		Args:    exactly(1, "a segment's id"),
	}
	c.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := c.call(cmd.Context(), http.MethodDelete, segmentPath(args[0]), nil, nil, nil); err != nil {
			return err
		}
		printf(cmd, "deleted %s\n", args[0])
		return nil
	}
	return cmd
}

// backfillPoll is how often --wait asks.
const backfillPoll = 250 * time.Millisecond

func newSegmentsBackfillCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "backfill ID",
		Short:   "Evaluate a segment over the history that is there",
		Example: "  kith segments backfill auto --wait --key demo-key",
		Args:    exactly(1, "a segment's id"),
	}
	c.flags(cmd)
	wait := cmd.Flags().Bool("wait", false, "return when it is done")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var s proto.SegmentSpec
		if err := c.call(cmd.Context(), http.MethodGet, segmentPath(args[0]), nil, nil, &s); err != nil {
			return err
		}
		_, done := filling(s)
		under := s.Next != nil || s.Backfill && !done
		if s.Next == nil { // else a version is being filled already
			in := segmentSource{Scope: s.Scope, When: s.When, Backfill: true}
			if err := c.call(cmd.Context(), http.MethodPut, segmentPath(args[0]), nil, in, &s); err != nil {
				return err
			}
		}
		if !*wait {
			printf(cmd, "%s\n", backfillText(s, under))
			return nil
		}
		s, err := waitFilled(cmd, c, args[0], s)
		if err == nil {
			printf(cmd, "%s\n", filledText(s))
		}
		return err
	}
	return cmd
}

// backfillText tells what is, of a segment whose history was to be gone through, and
// whether it was under way before.
func backfillText(s proto.SegmentSpec, under bool) string {
	share, done := filling(s)
	switch {
	case done:
		return filledText(s)
	case under:
		return fmt.Sprintf("backfill of %s is under way%s", s.ID, percentOf(&share))
	}
	return fmt.Sprintf("backfill of %s started", s.ID)
}

// percentOf is ", 37%", or nothing if that is not known.
func percentOf(share *float64) string {
	if share == nil {
		return ""
	}
	return fmt.Sprintf(", %d%%", int(*share*100))
}

// filling is how much of a segment's history has been gone through for what was
// defined last, and whether that answers.
func filling(s proto.SegmentSpec) (share float64, done bool) {
	switch {
	case s.Next != nil:
		return s.Next.Progress, false
	case s.Progress != nil:
		share = *s.Progress
	}
	return share, s.Filled == nil || *s.Filled
}

// waitFilled asks until the segment's history has been gone through and what was
// defined last answers.
func waitFilled(cmd *cobra.Command, c *connection, id string, s proto.SegmentSpec) (proto.SegmentSpec, error) {
	bar := newShareBar(cmd.ErrOrStderr(), "filling "+id)
	defer bar.done()
	tick := time.NewTicker(backfillPoll)
	defer tick.Stop()
	for {
		share, done := filling(s)
		if done {
			break
		}
		bar.share(share)
		select {
		case <-tick.C:
		case <-cmd.Context().Done():
			return s, cmd.Context().Err()
		}
		var err error
		if s, err = segmentOf(cmd, c, id); err != nil {
			return s, err
		}
	}
	return s, nil
}

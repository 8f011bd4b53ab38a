package main

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"kith/gateway"
	"kith/proto"
)

func newLeakageCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "leakage",
		Short: "Third parties that a client's tags saw on its pages",
		Long: `Prints which hosts beside the site's own its pages asked, as tags with data-leaks told:
those that the client's hosts_allowed in kith.yaml does not name come first. Of hosts
that fewer identities met than the floor a client's key is told nothing but how many.`,
		Example: `  kith leakage --key demo-key
  kith leakage --days 7 --key demo-key --json`,
		Args: noArgs,
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	days := numberFlag(cmd, "days", 30, 1, gateway.LeakageDaysMax, "so many days, today included")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var out proto.Leakage
		if err := c.call(cmd.Context(), http.MethodGet, "/v1/leakage", url.Values{"days": {strconv.Itoa(*days)}}, nil, &out); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd, out)
		}
		return printLeakage(cmd, out)
	}
	return cmd
}

func printLeakage(cmd *cobra.Command, x proto.Leakage) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "HOST\tALLOWED\tPAGES\tIDENTITIES\tFIRST\tLAST\tON")
	for _, allowed := range []bool{false, true} {
		for _, h := range x.Hosts {
			if h.Allowed == allowed {
				fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\t%s\n", h.Host, map[bool]string{true: "yes", false: "no"}[h.Allowed], h.Pages, h.Identities, h.First, h.Last, strings.Join(h.On, " "))
			}
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if x.Pages != nil {
		fmt.Fprintf(cmd.OutOrStdout(), "%d pages told of hosts since %s", *x.Pages, proto.DayOf(x.Since))
	} else {
		fmt.Fprintf(cmd.OutOrStdout(), "too few people saw pages that told of hosts since %s", proto.DayOf(x.Since))
	}
	if x.Withheld > 0 {
		fmt.Fprintf(cmd.OutOrStdout(), "; %d hosts that too few people met are not shown", x.Withheld)
	}
	if x.More {
		fmt.Fprint(cmd.OutOrStdout(), "; there were more hosts than are counted")
	}
	fmt.Fprintln(cmd.OutOrStdout())
	printIncomplete(cmd, x.Partitions)
	return nil
}

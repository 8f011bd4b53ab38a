package gateway

import (
	"cmp"
	"net/http"

	"kith/proto"
)

// campaignRequest is the body of a campaign report.
type campaignRequest struct {
	proto.CampaignRequest
	Client string `json:"client"` // as ?client=
	After  string `json:"after"`  // as ?after=
}

// noReportKey says what a report key may do instead.
func noReportKey(who proto.Principal) error {
	if who.Role != proto.RoleReport {
		return nil
	}
	return proto.Errorf(proto.CodeForbidden, "campaign reports and daily totals are not for report keys: their many numbers cannot each be held against all that such keys were told. Have a segment defined of who saw the campaign, and count that with POST /v1/audiences/count")
}

func (g *Gateway) postCampaign(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	if err := noReportKey(who); err != nil {
		return err
	}
	var x campaignRequest
	if err := g.readValue(w, r, &x); err != nil {
		return err
	}
	x.Client = cmp.Or(queryValue(r.URL.RawQuery, "client"), x.Client)
	x.After = cmp.Or(queryValue(r.URL.RawQuery, "after"), x.After)
	client, err := g.clientFor(who, x.Client)
	if err == nil {
		err = checkUnit(&x.Unit)
	}
	if err == nil {
		err = g.wait(r.Context(), x.After)
	}
	if err != nil {
		return err
	}
	if x.To == 0 {
		x.To = g.millis().Day()
	}
	if x.From == 0 {
		x.From = firstDay(x.To)
	}
	unhurried(w)
	out, err := g.deps.Campaigns.CampaignReport(r.Context(), client, &x.CampaignRequest, g.floorFor(who, client))
	if err != nil {
		return err
	}
	return writeValue(w, http.StatusOK, out)
}

func (g *Gateway) getAggregates(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	err := noReportKey(who)
	if err != nil {
		return err
	}
	client, err := g.clientOf(who, r)
	if err != nil {
		return err
	}
	from, to, err := g.daysOf(r)
	if err != nil {
		return err
	}
	if err := g.wait(r.Context(), queryValue(r.URL.RawQuery, "after")); err != nil {
		return err
	}
	by := cmp.Or(queryValue(r.URL.RawQuery, "by"), "event")
	out, err := g.deps.Campaigns.Aggregates(r.Context(), client, by, from, to, g.floorFor(who, client))
	if err != nil {
		return err
	}
	return writeValue(w, http.StatusOK, out)
}

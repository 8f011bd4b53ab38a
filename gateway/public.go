package gateway

import "net/http"

// publicRoutes are what browsers and apps may ask.
func (g *Gateway) publicRoutes() *plane {
	p := g.newPlane("public")
	get := func(h handler) map[string]handler { return map[string]handler{http.MethodGet: h} }
	withPreflight := func(method string, h handler) map[string]handler {
		return map[string]handler{method: h, http.MethodOptions: g.preflight}
	}
	p.add("/v1/pixel.gif", get(g.pixel)).getOnly()
	p.add("/v1/match", get(g.getMatch)).getOnly()
	p.add("/v1/events", withPreflight(http.MethodPost, g.publicEvents))
	p.add("/v1/me/segments", withPreflight(http.MethodGet, g.ownSegments))
	p.add("/v1/me", map[string]handler{http.MethodGet: bounded(g.ownRecord), http.MethodDelete: bounded(g.eraseOwn), http.MethodOptions: g.preflight})
	p.add("/v1/optout", withPreflight(http.MethodPost, g.optOut))
	p.add("/v1/optin", withPreflight(http.MethodPost, bounded(g.optIn)))
	p.add("/v1/optout/status", withPreflight(http.MethodGet, bounded(g.optOutStatus)))
	p.add("/v1/choices", withPreflight(http.MethodPost, bounded(g.postChoices)))
	p.add("/optout", map[string]handler{http.MethodGet: bounded(g.optOutPage), http.MethodPost: g.optOutForm})
	p.add("/choices", map[string]handler{http.MethodGet: bounded(g.choicesPage), http.MethodPost: bounded(g.choicesForm)})
	p.add("/pages/people.css", get(g.pageAsset))
	p.add("/pages/people.js", get(g.pageAsset))
	p.add("/v1/receipts/key", withPreflight(http.MethodGet, g.getReceiptKey))
	p.add("/kith.js", get(g.script))
	p.add("/healthz", get(g.healthz))
	return p
}

// bounded refuses a query that is too long. An opt-out is not refused for its query, nor
// is the pixel, which answers with a picture whatever happens; events and segments say
// so where a page can read it.
func bounded(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := checkQuery(r.URL.RawQuery); err != nil {
			return err
		}
		return h(w, r)
	}
}

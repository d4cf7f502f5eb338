"""Models of other libraries as models of fastmlp, and back; one module for each library.

Of a model, these modules read only what `layers.Model` lists, and they make one by a call of its class: they are below
`fastmlp.model`. The libraries are optional and imported when they are first used.
"""

"""Hardware of SCRec: parameters, wire formats and cores.

Parameter and format modules import no Amaranth, so that planner and golden model stay light.
"""

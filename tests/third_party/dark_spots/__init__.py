"""A planner and a trainer that know nothing of cmb_plugin but what it exports."""

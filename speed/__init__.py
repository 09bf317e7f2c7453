"""Measurements of speed, as ratios within one process; nothing else imports this."""

import os

from counterfact.core.process import keep_few_products

keep_few_products(os.environ)  # before torch is imported, as the command line does

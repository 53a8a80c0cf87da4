"""(beta t + 1)^(-alpha), alpha usually 1/2: slow enough to go as far as it takes. Robbins and Monro 1951; Bottou 2010"""

from thalweg.core.schedule import schedule, warmed


@schedule
def polynomial(beta=0.1, alpha=0.5, warmup=0):
    return warmed(lambda t: float((beta * t + 1) ** -alpha), warmup)
